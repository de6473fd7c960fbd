"""The generic reconciler: the only retry loop of the project."""
