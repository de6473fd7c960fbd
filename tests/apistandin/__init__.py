"""A stand-in for the Kubernetes API server: real HTTP on loopback, everything in memory.

No package carries an API server, so tests talk to this one. tests/contract holds it to what the
Kubernetes API promises, and runs against a real server as well. What it does not implement it
answers with 501, never with silence. docs/kubernetes.md lists what it does.
"""
