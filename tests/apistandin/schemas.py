"""Schemas of the built-in kinds, as far as they are known here, in the words of structural.py.

The real server drops what a built-in type does not know, fills in defaults, merges some lists by
key and refuses what is wrong. So does the stand-in, with these. A Pod's specification is known in
the parts that a network reads; the rest of it is kept as it is.
"""

from __future__ import annotations

from typing import Any

from tests.apistandin.failure import Object

TEXT: Object = {"type": "string"}
NUMBER: Object = {"type": "integer"}
FLAG: Object = {"type": "boolean"}
TIME: Object = {"type": "string", "format": "date-time"}
PORT_OR_NAME: Object = {"x-kubernetes-int-or-string": True}
FREE: Object = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TEXTS: Object = {"type": "object", "additionalProperties": TEXT}
PORT: Object = {"type": "integer", "minimum": 1, "maximum": 65535}


def record(*, required: tuple[str, ...] = (), **properties: Object) -> Object:
    """An object with just these fields; a trailing underscore avoids a word of Python."""
    named = {key.rstrip("_"): value for key, value in properties.items()}
    schema: Object = {"type": "object", "properties": named}
    return schema | {"required": list(required)} if required else schema


def many(items: Object, **extra: Any) -> Object:
    """A list that is replaced as a whole."""
    return {"type": "array", "items": items, **extra}


def unique(items: Object) -> Object:
    """A list whose items are a set."""
    return {"type": "array", "items": items, "x-kubernetes-list-type": "set"}


def keyed(items: Object, *keys: str, patch_key: str | None = None) -> Object:
    """A list that is merged by keys; strategic merge patches may know another, single key."""
    return {
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": list(keys),
        "x-patch-merge-key": patch_key or keys[0],
    }


def given(schema: Object, value: Any) -> Object:
    """The schema with a default."""
    return schema | {"default": value}


def one_of(*values: str) -> Object:
    """A text of a few."""
    return {"type": "string", "enum": list(values)}


PROTOCOL = given(one_of("TCP", "UDP", "SCTP"), "TCP")
CONDITION = record(
    type_=TEXT, status=one_of("True", "False", "Unknown"), reason=TEXT, message=TEXT,
    lastTransitionTime=TIME, lastProbeTime=TIME, lastHeartbeatTime=TIME, lastUpdateTime=TIME,
    observedGeneration=NUMBER,
)  # fmt: skip
CONDITIONS = keyed(CONDITION, "type")
REFERENCE = record(
    apiVersion=TEXT, kind=TEXT, name=TEXT, namespace=TEXT, uid=TEXT, resourceVersion=TEXT,
    fieldPath=TEXT,
)  # fmt: skip
LABEL_SELECTOR = record(
    matchLabels=TEXTS,
    matchExpressions=many(
        record(
            key=TEXT, operator=one_of("In", "NotIn", "Exists", "DoesNotExist"), values=many(TEXT),
            required=("key", "operator"),
        )
    ),
)  # fmt: skip

METADATA = record(
    name=TEXT, generateName=TEXT, namespace=TEXT, uid=TEXT, resourceVersion=TEXT,
    generation=NUMBER, creationTimestamp=TIME | {"nullable": True}, deletionTimestamp=TIME,
    deletionGracePeriodSeconds=NUMBER, labels=TEXTS, annotations=TEXTS, selfLink=TEXT,
    finalizers=unique(TEXT), managedFields=many(FREE),
    ownerReferences=keyed(
        record(
            apiVersion=TEXT, kind=TEXT, name=TEXT, uid=TEXT, controller=FLAG,
            blockOwnerDeletion=FLAG, required=("apiVersion", "kind", "name", "uid"),
        ),
        "uid",
    ),
)  # fmt: skip

_CONTAINER = record(
    name=TEXT, image=TEXT,
    ports=keyed(
        record(
            containerPort=PORT, hostPort=NUMBER, hostIP=TEXT, name=TEXT, protocol=PROTOCOL,
            required=("containerPort",),
        ),
        "containerPort", "protocol",
    ),
    required=("name",),
) | {"x-kubernetes-preserve-unknown-fields": True}  # fmt: skip
_CONTAINERS = keyed(_CONTAINER, "name")
POD = record(
    spec=record(
        nodeName=TEXT, hostNetwork=FLAG, hostname=TEXT, subdomain=TEXT,
        restartPolicy=given(one_of("Always", "OnFailure", "Never"), "Always"),
        containers=_CONTAINERS | {"minItems": 1}, initContainers=_CONTAINERS,
        terminationGracePeriodSeconds=given(NUMBER, 30),
        required=("containers",),
    ) | {"x-kubernetes-preserve-unknown-fields": True},
    status=record(
        phase=given(TEXT, "Pending"), conditions=CONDITIONS, podIP=TEXT, hostIP=TEXT,
        podIPs=keyed(record(ip=TEXT), "ip"), hostIPs=many(record(ip=TEXT)),
        message=TEXT, reason=TEXT, startTime=TIME, observedGeneration=NUMBER, qosClass=TEXT,
        nominatedNodeName=TEXT, containerStatuses=many(FREE), initContainerStatuses=many(FREE),
    ),
    required=("spec",),
)  # fmt: skip

SERVICE = record(
    spec=record(
        type_=given(one_of("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"), "ClusterIP"),
        selector=TEXTS, clusterIP=TEXT, clusterIPs=many(TEXT), externalIPs=many(TEXT),
        ipFamilies=many(one_of("IPv4", "IPv6")), internalTrafficPolicy=one_of("Cluster", "Local"),
        ipFamilyPolicy=one_of("SingleStack", "PreferDualStack", "RequireDualStack"),
        externalTrafficPolicy=one_of("Cluster", "Local"), externalName=TEXT, loadBalancerIP=TEXT,
        sessionAffinity=given(one_of("None", "ClientIP"), "None"), loadBalancerClass=TEXT,
        sessionAffinityConfig=record(
            clientIP=record(timeoutSeconds=NUMBER | {"minimum": 1, "maximum": 86400})
        ),
        loadBalancerSourceRanges=many(TEXT), publishNotReadyAddresses=FLAG,
        allocateLoadBalancerNodePorts=FLAG, healthCheckNodePort=NUMBER, trafficDistribution=TEXT,
        ports=keyed(
            record(
                name=TEXT, port=PORT, protocol=PROTOCOL, targetPort=PORT_OR_NAME, nodePort=NUMBER,
                appProtocol=TEXT, required=("port",),
            ),
            "port", "protocol",
        ),
    ),
    status=record(
        conditions=CONDITIONS,
        loadBalancer=given(
            record(
                ingress=many(record(ip=TEXT, hostname=TEXT, ipMode=TEXT, ports=many(FREE)))
            ),
            {},
        ),
    ),
)  # fmt: skip

ENDPOINT_SLICE = record(
    addressType=one_of("IPv4", "IPv6", "FQDN"),
    endpoints=many(
        record(
            addresses=unique(TEXT) | {"minItems": 1, "maxItems": 100},
            conditions=record(ready=FLAG, serving=FLAG, terminating=FLAG), hostname=TEXT,
            nodeName=TEXT, zone=TEXT, targetRef=REFERENCE, deprecatedTopology=TEXTS,
            hints=record(forZones=many(record(name=TEXT)), forNodes=many(record(name=TEXT))),
            required=("addresses",),
        )
    ),
    ports=many(
        record(name=given(TEXT, ""), port=NUMBER, protocol=PROTOCOL, appProtocol=TEXT)
    ),
    required=("addressType",),
)  # fmt: skip

_POLICY_PORT = record(protocol=PROTOCOL, port=PORT_OR_NAME, endPort=NUMBER)
_POLICY_PEER = record(
    podSelector=LABEL_SELECTOR, namespaceSelector=LABEL_SELECTOR,
    ipBlock=record(
        cidr=TEXT | {"format": "cidr"}, except_=many(TEXT | {"format": "cidr"}),
        required=("cidr",),
    ),
)  # fmt: skip
NETWORK_POLICY = record(
    spec=record(
        podSelector=given(LABEL_SELECTOR, {}), policyTypes=many(one_of("Ingress", "Egress")),
        ingress=many(record(ports=many(_POLICY_PORT), from_=many(_POLICY_PEER))),
        egress=many(record(ports=many(_POLICY_PORT), to=many(_POLICY_PEER))),
    )
)  # fmt: skip

NODE = record(
    spec=record(
        podCIDR=TEXT, podCIDRs=unique(TEXT), providerID=TEXT, unschedulable=FLAG,
        taints=many(record(key=TEXT, value=TEXT, effect=TEXT, timeAdded=TIME)),
    ),
    status=record(
        addresses=keyed(record(type_=TEXT, address=TEXT), "type", "address", patch_key="type"),
        conditions=CONDITIONS, capacity=FREE, allocatable=FREE, nodeInfo=FREE, phase=TEXT,
        daemonEndpoints=FREE, images=many(FREE), volumesInUse=many(TEXT),
        volumesAttached=many(FREE),
        features=FREE, runtimeHandlers=many(FREE), config=FREE, declaredFeatures=many(TEXT),
    ),
)  # fmt: skip

NAMESPACE = record(
    spec=record(finalizers=many(TEXT)),
    status=record(phase=given(TEXT, "Active"), conditions=CONDITIONS),
)
MICRO_TIME: Object = {"type": "string", "format": "date-time"}
LEASE = record(
    spec=record(
        holderIdentity=TEXT, leaseDurationSeconds=NUMBER | {"minimum": 1}, acquireTime=MICRO_TIME,
        renewTime=MICRO_TIME, leaseTransitions=NUMBER | {"minimum": 0}, strategy=TEXT,
        preferredHolder=TEXT,
    )
)  # fmt: skip
EVENT = record(
    involvedObject=REFERENCE, reason=TEXT, message=TEXT, type_=TEXT, count=NUMBER,
    source=given(record(component=TEXT, host=TEXT), {}), firstTimestamp=TIME | {"nullable": True},
    lastTimestamp=TIME | {"nullable": True}, eventTime=MICRO_TIME | {"nullable": True},
    action=TEXT, related=REFERENCE, reportingComponent=given(TEXT, ""),
    reportingInstance=given(TEXT, ""), series=record(count=NUMBER, lastObservedTime=MICRO_TIME),
    required=("involvedObject",),
)  # fmt: skip
CONFIG_MAP = record(data=TEXTS, binaryData=TEXTS, immutable=FLAG)
SECRET = record(data=TEXTS, stringData=TEXTS, immutable=FLAG, type_=given(TEXT, "Opaque"))
SERVICE_ACCOUNT = record(
    secrets=many(FREE), imagePullSecrets=many(FREE), automountServiceAccountToken=FLAG
)
WORKLOAD = record(spec=FREE, status=FREE)
CRD = record(spec=FREE, status=FREE, required=("spec",))
