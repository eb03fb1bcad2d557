"""train_nxd.py: neuronx-distributed."""
