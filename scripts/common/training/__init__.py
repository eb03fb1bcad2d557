"""What trainings share: the loop, flags, optimizer, checkpoints and the LoRA adapter."""
