"""URLs of the API: what a path asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.apistandin import failure
from tests.apistandin.kinds import REAL_ONLY_CORE, REAL_ONLY_GROUPS, Kind

Kinds = Mapping[tuple[str, str, str], Kind]


@dataclass(frozen=True, slots=True)
class Target:
    """A collection (without a name), an object, or its status."""

    kind: Kind
    namespace: str
    name: str
    sub: str


def resolve(path: str, kinds: Kinds) -> Target:
    """What an object path names.

    Raises:
        Failure: 404, there is no such resource; 501, a real server has it and this one does not.
    """
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2 and parts[1] == "v1":
        group, version, rest = "", "v1", parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise failure.no_such_page()
    if group in REAL_ONLY_GROUPS:
        raise failure.not_implemented(f"the group {group}")
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and not (group == "" and _own_sub(rest)):
        namespace, rest = rest[1], rest[2:]
    plural, name, sub = (*rest, "", "")[:3]
    if len(rest) > 3:
        raise failure.no_such_page()
    if group == "" and plural in REAL_ONLY_CORE:
        raise failure.not_implemented(plural)
    kind = kinds.get((group, version, plural))
    if kind is None or (namespace and not kind.namespaced):
        raise failure.no_such_page()
    if sub == "status" and not kind.status:
        raise failure.no_such_page()
    if sub not in ("", "status"):
        if kind.custom:
            raise failure.no_such_page()
        raise failure.not_implemented(f"the subresource {plural}/{sub}")
    if kind.namespaced and name and not namespace:
        raise failure.no_such_page()
    return Target(kind, namespace, name, sub)


def _own_sub(rest: list[str]) -> bool:
    """Whether namespaces/NAME/X is a subresource of the namespace itself."""
    return len(rest) == 3 and rest[2] in ("status", "finalize")


def discover(path: str, kinds: Kinds) -> dict[str, object] | None:
    """The answer to a discovery path; None if it is none."""
    parts = path.strip("/").split("/")
    groups: dict[str, list[str]] = {}
    for group, version, _ in kinds:
        versions = groups.setdefault(group, [])
        if version not in versions:
            versions.append(version)
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if parts == ["apis"]:
        listed = [_group(group, versions) for group, versions in groups.items() if group]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
    if parts[0] == "apis" and len(parts) == 2 and parts[1] in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(parts[1], groups[parts[1]])}
    if parts[0] == "api" and len(parts) == 2:
        wanted = ("", parts[1])
    elif parts[0] == "apis" and len(parts) == 3:
        wanted = (parts[1], parts[2])
    else:
        return None
    if wanted[1] not in groups.get(wanted[0], ()):
        return None
    resources = [
        entry for kind in kinds.values() if (kind.group, kind.version) == wanted
        for entry in kind.discovery()
    ]  # fmt: skip
    text = f"{wanted[0]}/{wanted[1]}" if wanted[0] else wanted[1]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": text,
        "resources": resources,
    }


def _group(group: str, versions: list[str]) -> dict[str, object]:
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}
