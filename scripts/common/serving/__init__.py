"""Servers that speak OpenAI's protocol, ours and vLLM, and the client that asks them."""
