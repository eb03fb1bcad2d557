"""train_torch.py on Neuron: native PyTorch."""
