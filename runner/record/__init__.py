"""What is kept of a run: its folder, its metrics, its report, and the trackers that are told."""
