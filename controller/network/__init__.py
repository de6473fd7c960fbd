"""From a cluster's objects to OVN's northbound rows: pure, and by key. No I/O.

`rows` (what is wanted), `view` (what is read), `units` (who computes what), `book` (keeps what is
wanted equal to what the units say, recomputing only what a change touches).
"""
