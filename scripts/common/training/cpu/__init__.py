"""Training on CPUs: tensor-parallel ranks over gloo."""
