"""Pure translation of what OVN says into the node's state and the northbound rows we own."""
