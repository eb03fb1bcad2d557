"""Training on NeuronCores with native PyTorch."""
