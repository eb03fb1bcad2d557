"""The record of a run: its folder, its metrics, its report, and the trackers that receive its metrics."""
