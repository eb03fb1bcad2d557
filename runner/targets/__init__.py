"""Where a plan runs: each module carries it to a machine, starts it and follows it."""
