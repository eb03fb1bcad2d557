"""`runner run -m`: trials of one recipe, in a folder that the same command finds again."""
