"""Where the rules come from, in words short enough for a line of `millrace plan --explain`."""

from __future__ import annotations

OVS_CONF = "ovs-vswitchd.conf.db(5)"
OVS_PMD = "OVS documentation, topics/dpdk/pmd"
OVS_MEMORY = "OVS documentation, topics/dpdk/memory"
OVS_PHY = "OVS documentation, intro/install/dpdk"
OVS_BRIDGE = "OVS documentation, topics/dpdk/bridge (EMC, SMC)"
OVS_MBUFS = "lib/netdev-dpdk.c, dpdk_calculate_mbufs and dpdk_buf_size"
DPDK_EAL = "DPDK, Linux EAL parameters"
NFV_GUIDE = "Red Hat OpenStack NFV guide, OVS-DPDK CPU and memory parameters"
RHBZ_1571379 = "RHBZ 1571379, as TripleO and Kube-OVN set it"
KERNEL_ARGUMENTS = "kernel documentation, admin-guide/kernel-parameters"
KUBELET = "Kubernetes documentation, reserve-compute-resources"
OURS = "ours"
