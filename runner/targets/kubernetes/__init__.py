"""A Kubernetes cluster, such as EKS: a run is a Job."""

from runner.targets.kubernetes.target import Target

__all__ = ["Target"]
