"""The CNI plugin and its wire protocol. Standard library only."""
