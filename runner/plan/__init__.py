"""Recipe → Plan: the command line of every step, its checks, its environment and its fingerprint."""
