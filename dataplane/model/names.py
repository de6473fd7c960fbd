"""Names by which we recognise our own, each in one place."""

OWNER = "millrace"
"""Value of external_ids:owner on every OVSDB and OVN row of ours."""

OWNER_KEY = "owner"
KUBERNETES_OWNER = "millrace-kubernetes"
"""Its value on rows that are made of Kubernetes' objects (`controller.ovn.ours`)."""

FLOW_COOKIE = 0x6D72_0000_0000_0001
"""Cookie of every OpenFlow rule of ours ("mr", and the pipeline's version)."""

FLOW_COOKIE_MASK = 0xFFFF_0000_0000_0000
LINK_ALIAS_PREFIX = "millrace:"
"""ifalias of every link of ours begins with it."""

FAST_PATH_KEY = "millrace:fast-path"
"""NB Load_Balancer external_ids: "true" marks a load balancer for XDP."""

TRAFFIC_POLICY_KEY = "millrace:traffic-policy"
"""NB Load_Balancer external_ids, as all below: cluster or local, for clients outside."""

INTERNAL_POLICY_KEY = "millrace:internal-traffic-policy"
"""cluster or local, for clients inside; counts for cluster IPs only."""

KIND_KEY = "millrace:kind"
"""A `ServiceKind`."""

SERVICE_KEY = "millrace:service"
"""The service port's identity, "namespace/name:port", shared by its rows."""

SOURCE_RANGES_KEY = "millrace:source-ranges"
"""Networks of the clients outside that are admitted, with commas."""

FORWARDING_KEY = "millrace:forwarding"
"""A `Forwarding`."""

HEALTH_PORT_KEY = "millrace:health-check-node-port"
"""The port at which a node says whether it has ready endpoints."""

NOT_READY_KEY = "millrace:publish-not-ready"
""""true": endpoints count as ready whatever their state."""

ENDPOINTS_KEY = "millrace:endpoints"
"""JSON: what is known of single backends (`controller.translate.endpoints`)."""

AFFINITY_OPTION = "affinity_timeout"
"""NB Load_Balancer options: OVN's own, seconds of session affinity by client address."""

REJECT_OPTION = "reject"
"""NB Load_Balancer options: OVN's own; "false": without endpoints drop, and do not refuse."""

SERVICE_ADDRESS_KEY = "millrace:service-address"
"""NB Logical_Router external_ids: the address of svc0 on that gateway router's chassis."""

SERVICE_ADDRESS6_KEY = "millrace:service-address6"
"""The same for svc0's IPv6 address; a router without it serves IPv4 alone."""

NETWORKS_KEY = "millrace:networks"
"""NB Logical_Switch external_ids: a switch without a router's port says its networks here, and who
leads out of them: "192.0.2.0/24 192.0.2.1", with a comma for the second family."""

DOWN_KEY = "millrace:down"
"""NB Logical_Router external_ids of a gateway router: "true" while its chassis gives no sign of
life; no VIP is announced by it then."""

RECEIVE_RATE_KEY = "millrace:ingress-rate"
"""NB Logical_Switch_Port external_ids: bits a second that the workload may receive; for what it
sends OVN has options:qos_max_rate."""

RECEIVE_BURST_KEY = "millrace:ingress-burst"
"""The same: bits that may arrive at once."""

ROUTES_KEY = "millrace:routes"
"""NB Logical_Switch_Port external_ids: routes of the workload's interface by its gateways, or on
the link: "192.168.0.0/16 10.16.0.254,10.9.0.0/16"."""

DEFAULT_ROUTE_KEY = "millrace:default-route"
"""The same: "false": the interface has no default route by its network's router."""

MIRROR_KEY = "millrace:mirror"
"""NB Logical_Switch_Port external_ids: "true": copies of what passes the port go to MIRROR_LINK of
the node where it is."""

MIRROR_LINK, MIRROR_PORT = "mirror0", "mirror0-ovs"
"""The veth pair that copies leave by: the end at which one listens, and the one they come in at."""

INTEGRATION_BRIDGE = "br-int"
TRUNK_LINK, TRUNK_PORT = "mrt0", "mrt0-ovs"
"""The veth pair that all containers of a node share: the kernel's end, and OVS's port on br-int."""

TRUNK_PREFIX = "trunk-"
"""A chassis's logical port for all its containers is this and the chassis's name."""

TRUNK_KEY = "millrace:trunk"
"""NB Logical_Switch_Port external_ids: the chassis that nested the port in its trunk."""

ISOLATED_VLAN = 4094
"""Access VLAN of svc0's OVS port: NORMAL never floods to it, explicit output still reaches it."""

CMS_OPTIONS = "ovn-cms-options"
"""external_ids key of Open_vSwitch, and other_config key of OVN's Chassis that it is copied to."""

WITHDRAWN = "millrace-withdrawn"
"""Word in that list: this chassis answers for no VIP now."""
