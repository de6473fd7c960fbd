"""The manifest grants exactly what the controller does, and its file is one that it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from controller.config_kubernetes import load_kubernetes
from controller.kuberights import OWN_RULES, rules, single_rules
from controller.network.registry import WATCHED

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy/kubernetes/controller.yaml"


OWN = "millrace"


def _manifest(namespace: str = OWN) -> dict[str, Any]:
    """The objects of a namespace, and those of none, by kind."""
    return {
        obj["kind"]: obj
        for obj in yaml.safe_load_all(MANIFEST.read_text())
        if obj and obj["metadata"].get("namespace", namespace) == namespace
    }


def test_the_manifest_grants_exactly_what_is_done() -> None:
    manifest = _manifest()
    assert manifest["ClusterRole"]["rules"] == rules()
    assert manifest["Role"]["rules"] == list(OWN_RULES)
    for namespace, granted in single_rules().items():
        assert _manifest(namespace)["Role"]["rules"] == granted


def test_nothing_is_granted_that_nobody_watches() -> None:
    watched = {(one.resource.group, one.resource.plural) for one in WATCHED if one.only is None} | {
        ("", "events")
    }
    granted = {
        (group, plural.partition("/")[0])
        for rule in rules()
        for group in rule["apiGroups"]
        for plural in rule["resources"]
    }
    assert granted == watched
    assert not any("*" in word for rule in rules() for words in rule.values() for word in words)


def test_the_account_is_that_of_the_deployment() -> None:
    manifest = _manifest()
    pod = manifest["Deployment"]["spec"]["template"]["spec"]
    account = manifest["ServiceAccount"]["metadata"]
    bindings = [manifest["ClusterRoleBinding"]]
    bindings += [_manifest(space)["RoleBinding"] for space in (OWN, *single_rules())]
    for binding in bindings:
        [subject] = binding["subjects"]
        assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert pod["serviceAccountName"] == account["name"]


def test_the_file_of_the_manifest_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "controller.toml"
    file.write_text(_manifest()["ConfigMap"]["data"]["controller.toml"])
    config = load_kubernetes(file)
    assert config.nb.count("ssl:") == 3 and config.tls is not None
    assert config.network.default_cidr == "10.16.0.0/16"
    assert config.network.join_cidr == "100.64.0.0/16"
