"""A Kubernetes cluster, such as EKS: a run is a Job."""
