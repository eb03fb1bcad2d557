"""Rows, prompt templates and tokenizers: from a data set to token ids."""
