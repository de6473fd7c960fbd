"""The node's library: model, pure planning, reconciler and drivers."""
