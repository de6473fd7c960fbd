"""Pure functions from the node's state to the rows of every table that we own."""
