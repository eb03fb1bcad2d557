"""Loading a model with its adapters, generating with it, and scoring the answers."""
