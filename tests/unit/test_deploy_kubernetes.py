"""Manifests and images name what exists: commands, paths, sockets, capabilities."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni import asked, config
from cni.dra import claims, driver
from cni.kubevirt import sidecar
from controller import vhost_pods
from controller.cli.main import parser
from controller.config import load_node
from dataplane.drivers.processes import wait_until

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGES, MANIFESTS = DEPLOY / "images", DEPLOY / "kubernetes"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8")))


def one(kind: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [doc for doc in documents("millrace.yaml") if doc["kind"] == kind]
    return found


def pod(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = one(kind)["spec"]["template"]["spec"]
    return spec


def container(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any]
    (found,) = [c for c in pod(kind)["containers"] if c["name"] == name]
    return found


def mounts(kind: str, name: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """By path in the container: the host's path, and the mount."""
    volumes = {v["name"]: v.get("hostPath", {}).get("path", "") for v in pod(kind)["volumes"]}
    return {m["mountPath"]: (volumes[m["name"]], m) for m in container(kind, name)["volumeMounts"]}


def test_the_commands_parse() -> None:
    for kind, name in (("DaemonSet", "node"), ("Deployment", "central")):
        program, *words = container(kind, name)["command"]
        assert program == "millrace"
        assert parser().parse_args(words).command == name
    (_sh, _c, script) = container("DaemonSet", "node")["livenessProbe"]["exec"]["command"]
    words = shlex.split(script.split(">")[0])
    assert parser().parse_args(words[1:]).command == "status"


def test_the_daemon_sees_the_hosts_paths_under_their_own_names() -> None:
    node = load_node(DEPLOY / "node.toml").config
    found = mounts("DaemonSet", "node")
    host = {path for path, (there, _) in found.items() if path == there}
    assert node.hugepages
    needed = [
        node.rundir, node.statedir, node.bpf_root, node.ovs_rundir, node.hugepages.mount,
        str(vhost_pods.KUBELET / "pods"), "/run/netns/x", "/run/k8s.cni.cncf.io/devinfo/cni/x",
        "/boot/config-x", "/lib/modules/x/config", "/etc/millrace/node.toml",
    ]  # fmt: skip
    for path in needed:
        assert any(path == there or path.startswith(f"{there}/") for there in host), path
    assert pod("DaemonSet")["hostNetwork"] is pod("DaemonSet")["hostPID"] is True


def test_what_is_mounted_later_is_seen_and_what_we_mount_is_seen_by_others() -> None:
    way = {
        path: mount.get("mountPropagation")
        for path, (_, mount) in mounts("DaemonSet", "node").items()
    }
    assert way[str(vhost_pods.KUBELET / "pods")] == "Bidirectional"
    assert way["/run/netns"] == "HostToContainer"
    # Kubernetes takes Bidirectional of privileged containers alone.
    assert container("DaemonSet", "node")["securityContext"]["privileged"] is True
    for kind, name in (("DaemonSet", "install-cni"), ("Deployment", "central")):
        context = container(kind, name)["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert "privileged" not in context


def test_the_host_paths_are_these_and_no_others() -> None:
    found = {v["hostPath"]["path"] for v in pod("DaemonSet")["volumes"] if "hostPath" in v}
    assert found == {
        "/etc/millrace", "/run/millrace", "/var/lib/millrace", "/sys/fs/bpf", "/sys/fs/cgroup",
        "/run/netns", "/run/openvswitch", "/run/ovn", "/dev/hugepages", "/run/k8s.cni.cncf.io",
        "/var/lib/kubelet/pods", "/opt/cni/bin", "/etc/cni/net.d", "/boot", "/lib/modules",
    }  # fmt: skip
    used = {m["name"] for c in pod("DaemonSet")["containers"] for m in c["volumeMounts"]}
    assert used == {v["name"] for v in pod("DaemonSet")["volumes"]}


def test_nobody_has_a_right_in_the_cluster() -> None:
    kinds = [doc["kind"] for doc in documents("millrace.yaml")]
    assert sorted(kinds) == ["DaemonSet", "Deployment", "Namespace", "ServiceAccount"]
    for kind in ("DaemonSet", "Deployment"):
        assert pod(kind)["automountServiceAccountToken"] is False
    assert one("ServiceAccount")["automountServiceAccountToken"] is False


def test_the_network_of_vms_is_one_that_the_plugin_takes() -> None:
    (network,) = documents("network.yaml")
    entry = json.loads(network["spec"]["config"])
    read = config.NetworkConfig(entry, "ADD")
    assert (read.mode, read.socket) == ("vhost-user", config.DEFAULT_SOCKET)
    assert entry["capabilities"]["CNIDeviceInfoFile"] is True
    assert {name for name, on in entry["capabilities"].items() if on} <= asked._KNOWN
    listed = json.loads((MANIFESTS / "10-millrace.conflist").read_text())
    for plugin in listed["plugins"]:
        whole = {"cniVersion": listed["cniVersion"], "name": listed["name"], **plugin}
        assert config.NetworkConfig(whole, "ADD").socket == config.DEFAULT_SOCKET


def test_vm_network_and_binding_name_each_other() -> None:
    (vm,), (network,) = documents("vm.yaml"), documents("network.yaml")
    (kubevirt,) = documents("kubevirt.yaml")
    bindings = kubevirt["spec"]["configuration"]["network"]["binding"]
    assert bindings[sidecar.BINDING]["downwardAPI"] == "device-info"
    spec = vm["spec"]["template"]["spec"]
    (interface,) = spec["domain"]["devices"]["interfaces"]
    assert interface["binding"]["name"] == sidecar.BINDING
    (wanted,) = spec["networks"]
    meta = network["metadata"]
    assert wanted["multus"]["networkName"] == f"{meta['namespace']}/{meta['name']}"
    assert wanted["name"] == interface["name"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("plugin") / "millrace-cni"
    subprocess.run([IMAGES / "build-plugin.sh", built], check=True, timeout=60)
    return built


def test_the_plugin_in_one_file_speaks_cni(plugin: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [plugin], input='{"cniVersion": "1.1.0"}', env={"CNI_COMMAND": "VERSION"},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]


STAND_IN = """#!/bin/sh
# The plugin, of which the installer knows its answer to STATUS alone.
[ "$CNI_COMMAND" = STATUS ] && [ -e "{ready}" ] && exit 0
printf '{{"code": 50, "msg": "not yet"}}'
exit 1
"""


def test_the_list_is_written_last_and_removed_first(tmp_path: Path) -> None:
    for name in ("bin", "net", "run"):
        (tmp_path / name).mkdir()
    ready, source = tmp_path / "ready", tmp_path / "plugin"
    source.write_text(STAND_IN.format(ready=ready))
    source.chmod(0o755)
    (tmp_path / "bin/millrace-cni").write_text("an older one")
    (tmp_path / ".millrace-cni.py").write_text("what it runs itself")
    listed = tmp_path / "net/10-millrace.conflist"
    env = {
        "PATH": os.environ["PATH"], "NODE": "node1", "PLUGIN": str(source),
        "CONFLIST": str(MANIFESTS / listed.name), "BIN": str(tmp_path / "bin"),
        "NET": str(tmp_path / "net"), "RUN": str(tmp_path / "run"), "TMPDIR": str(tmp_path),
    }  # fmt: skip
    with subprocess.Popen(
        ["/bin/sh", IMAGES / "install-cni.sh"], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until(
            lambda: (tmp_path / "bin/millrace-cni").read_bytes() == source.read_bytes(),
            "the plugin is in place",
        )
        assert (tmp_path / "bin/.millrace-cni.py").read_text() == "what it runs itself"
        assert not listed.exists()
        ready.touch()
        wait_until(listed.exists, "the list is written")
        assert listed.read_bytes() == (MANIFESTS / listed.name).read_bytes()
        assert (tmp_path / "run/cni.sock").readlink() == Path("node1/cni.sock")
        assert (tmp_path / "bin/kube-ovn").read_bytes() == source.read_bytes()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert not listed.exists()
    # What it waited for is said once, not once a second.
    assert said.count("not yet: ") == 1


def test_the_socket_that_networks_name_is_the_one_that_the_installer_links() -> None:
    script = (IMAGES / "install-cni.sh").read_text(encoding="utf-8")
    default = re.search(r"RUN:=([^}\"]+)", script)
    assert default
    assert f"{default[1]}/cni.sock" == config.DEFAULT_SOCKET
    node = load_node(DEPLOY / "node.toml").config
    assert f"{default[1]}/{node.name}" == node.rundir
    paths = mounts("DaemonSet", "install-cni")
    for variable in ("BIN", "NET"):
        found = re.search(rf"{variable}:=([^}}\"]+)", script)
        assert found
        assert paths[found[1]][0] == found[1].removeprefix("/host")


def named(name: str) -> dict[str, dict[str, Any]]:
    return {doc["kind"]: doc for doc in documents(name)}


def test_the_dra_driver_may_do_what_it_calls_and_no_more() -> None:
    found = named("dra.yaml")
    rules = found["ClusterRole"]["rules"]
    assert {(r["resources"][0], *r["verbs"]) for r in rules} == {
        ("resourceclaims", "get"),
        ("resourceslices", "get", "create", "update"),
    }
    assert {group for r in rules for group in r["apiGroups"]} == {"resource.k8s.io"}
    # What the program calls: the method after each path that it names.
    source = (ROOT / "cni/dra/api.py").read_text() + (ROOT / "cni/dra/driver.py").read_text()
    assert set(re.findall(r'self\.call\("([A-Z]+)"', source)) == {"GET", "POST", "PUT"}
    assert set(re.findall(r"/apis/resource\.k8s\.io/v1/\S*?(resource\w+)", source)) == {
        "resourceclaims", "resourceslices",
    }  # fmt: skip
    (subject,) = found["ClusterRoleBinding"]["subjects"]
    account = found["ServiceAccount"]["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])


def test_the_dra_driver_finds_its_directories() -> None:
    found = named("dra.yaml")
    spec = found["DaemonSet"]["spec"]["template"]["spec"]
    host = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"]}
    (program,) = spec["containers"]
    assert all(m["mountPath"] == host[m["name"]] for m in program["volumeMounts"])
    places = driver.Places()
    needed = [str(places.plugin), str(places.registration), str(places.cdi), config.DEFAULT_SOCKET]
    for path in needed:
        assert any(path.startswith(there) for there in host.values()), path
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'{program["command"][0]} = "{driver.__name__}:main"' in text
    (selector,) = found["DeviceClass"]["spec"]["selectors"]
    assert selector["cel"]["expression"] == f'device.driver == "{claims.DRIVER}"'


def test_the_claims_machine_names_what_there_is() -> None:
    found = named("dra-vm.yaml")
    (request,) = found["ResourceClaimTemplate"]["spec"]["spec"]["devices"]["requests"]
    assert (
        request["exactly"]["deviceClassName"]
        == named("dra.yaml")["DeviceClass"]["metadata"]["name"]
    )
    spec = found["VirtualMachine"]["spec"]["template"]["spec"]
    (claim,), (network,) = spec["resourceClaims"], spec["networks"]
    assert network["resourceClaim"] == {"claimName": claim["name"], "requestName": request["name"]}
    template = found["ResourceClaimTemplate"]["metadata"]["name"]
    assert claim["resourceClaimTemplateName"] == template
