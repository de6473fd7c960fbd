"""Watching and writing OVN's databases."""
