"""From Kubernetes' network policies to OVN's port groups, address sets and ACLs. No I/O."""
