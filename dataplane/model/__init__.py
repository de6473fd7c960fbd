"""Frozen values that every other part speaks in. Nothing here does I/O."""
