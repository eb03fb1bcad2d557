"""Kubernetes: the objects that a run is made of, and the API. The target is `runner.targets.kubernetes`."""
