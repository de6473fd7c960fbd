"""What vswitchd answers in text to commands that `dataplane.drivers.ovstext` does not read. Pure.

The same rule: tolerant. A line that a parser does not know is left out, a value that is missing is
None or not there; a text of another version, or cut off, raises nothing.
"""
