"""How a target reaches the machine that its runs belong to: over SSH, or on this machine."""
