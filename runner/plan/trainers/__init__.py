"""What each trainer can train, its flags, its environment and the software that it needs."""
