"""The tuning plan of OVS-DPDK: `dataplane.plan.tuning.compute.tuning` is its one entry."""
