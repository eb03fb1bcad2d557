"""The control plane: composes a recipe, plans its steps, runs and records them."""
