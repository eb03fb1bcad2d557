"""`runner serve`, `ask` and `generate`: trained models answer prompts."""
