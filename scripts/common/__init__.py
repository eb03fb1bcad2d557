"""What the stage programs share. Standard library and NumPy only, unless a module says otherwise."""
