"""The commands of the terminal: one file each, or a folder where a command needs several modules."""
