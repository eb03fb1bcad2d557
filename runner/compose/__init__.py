"""Recipe file, config groups and overrides → one typed, validated Recipe."""
