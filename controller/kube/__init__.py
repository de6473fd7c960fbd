"""The Kubernetes API as this controller uses it: watched collections, and few writes.

Layers, lower ones first: `structs` and `resources` (what is read of each kind), `auth` and
`kubeconfig` (who we are), `http` (requests and errors), `cache` (objects and indexes), `reflector`
(keeps a cache equal to the server), `lease`, `status` and `events` (what we write).
docs/kubernetes.md is the description for those who build on it.
"""
