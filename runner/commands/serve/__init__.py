"""`runner serve`, `ask` and `generate`: what was trained answers questions."""
