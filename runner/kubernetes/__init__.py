"""Kubernetes: the objects that a run is made of, and the API that is asked. The target is `runner.targets.kubernetes`."""
