"""train_torch.py on a CPU: tensor-parallel ranks over gloo."""
