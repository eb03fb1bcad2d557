"""train_optimum.py: optimum-neuron."""
