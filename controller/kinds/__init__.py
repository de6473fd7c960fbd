"""The custom kinds of `kubeovn.io/v1`, read from JSON into frozen facts. No I/O.

Sources: Kube-OVN's published definitions and its documentation of each kind.
"""
