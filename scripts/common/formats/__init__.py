"""File formats, read and written piece by piece: safetensors, torch files, GGUF, PEFT folders."""
