"""Tensor-parallel shards: which part of a Llama each rank holds, and its files."""
