"""The CNI executable's answers: right codes for wrong input, right forms for each version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni import config, plugin, spec, wire

ROOT = Path(__file__).resolve().parents[2]
NETNS = "/proc/self/ns/net"
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1"
RESULT: spec.Json = {
    "interfaces": [
        {"name": "mrp0"},
        {"name": "eth0", "mac": "0a:58:0a:00:00:05", "sandbox": NETNS, "mtu": 1442},
    ],
    "ips": [{"address": "10.0.0.5/24", "gateway": "10.0.0.1", "interface": 1}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}],
}


def env(command: str, **changes: str | None) -> dict[str, str]:
    """A runtime's environment for a command; None leaves a variable out."""
    values: dict[str, str | None] = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c0ffee",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": ARGS,
        "CNI_PATH": "/opt/cni/bin",
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def network(**changes: object) -> dict[str, object]:
    values: dict[str, object] = {
        "cniVersion": "1.1.0", "name": "mill", "type": "millrace-cni", **changes,
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not ...}


class Daemon:
    """What the daemon would be asked, and what it answers; the seam is `cni.wire.call`'s form."""

    def __init__(self, result: spec.Json | Exception) -> None:
        self.result = result
        self.asked: list[tuple[str, str, spec.Json]] = []

    def call(self, path: str, op: str, args: spec.Json, timeout: float) -> spec.Json:
        assert timeout > 0
        self.asked.append((path, op, args))
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def ask(
    environment: dict[str, str], conf: object, result: spec.Json | Exception = RESULT
) -> tuple[int, spec.Json, Daemon]:
    data = conf if isinstance(conf, bytes) else json.dumps(conf).encode()
    daemon = Daemon(result)
    status, obj = plugin.answer(environment, lambda: data, daemon.call)
    return status, {} if obj is None else obj, daemon


def test_add_hands_the_daemon_what_the_runtime_said() -> None:
    conf = network(mtu=1400, socket="/run/millrace/n1/cni.sock")
    status, obj, daemon = ask(env("ADD"), conf)
    assert status == 0
    assert obj == {"cniVersion": "1.1.0", "dns": {}, **RESULT}
    assert daemon.asked == [
        (
            "/run/millrace/n1/cni.sock",
            "add",
            {
                "network": "mill", "container_id": "c0ffee", "ifname": "eth0", "netns": NETNS,
                "pod": "web-0", "namespace": "shop", "pod_uid": "u-1",
                "mode": "veth", "mtu": 1400, "queues": 1, "bandwidth": {},
                "provider": "", "routes": [], "socket_name": "", "asked": {},
                "iface_id": "", "cni_args": {},
            },
        )
    ]  # fmt: skip


def test_a_template_of_the_ports_name_goes_with_what_the_pod_says_of_this_network() -> None:
    conf = network(iface_id="{args.port}", args={"cni": {"port": "6f3c", "ips": ["10.0.0.5"]}})
    status, _, daemon = ask(env("ADD"), conf)
    assert status == 0
    handed = daemon.asked[0][2]
    assert (handed["iface_id"], handed["cni_args"]) == ("{args.port}", {"port": "6f3c"})
    assert ask(env("ADD"), network(iface_id=5))[0] == 1


def test_the_capability_bandwidth_is_handed_on() -> None:
    asked = {"ingressRate": 1_000_000, "ingressBurst": 2**32 - 1, "egressRate": 0}
    conf = network(runtimeConfig={"bandwidth": asked, "mac": "OVN has it"})
    status, _, daemon = ask(env("ADD"), conf)
    assert status == 0
    handed = daemon.asked[0][2]["bandwidth"]
    assert handed == {"ingressRate": 1_000_000, "ingressBurst": 2**32 - 1}
    # A removal has to work whatever became of it since.
    assert ask(env("DEL"), network(runtimeConfig={"bandwidth": 5}))[0] == 0


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_the_result_has_the_form_of_its_version(version: str) -> None:
    status, obj, _ = ask(env("ADD"), network(cniVersion=version))
    assert status == 0
    assert obj["cniVersion"] == version
    interfaces, ips = obj["interfaces"], obj["ips"]
    assert isinstance(interfaces, list)
    assert isinstance(ips, list)
    assert ("mtu" in interfaces[1]) == (version == "1.1.0")
    assert ips[0].get("version") == (None if version >= "1.0.0" else "4")


def test_a_socket_path_is_told_from_1_1_on() -> None:
    vhost: spec.Json = {
        "interfaces": [{"name": "net1", "socketPath": "/run/x.sock", "sandbox": "c0ffee"}],
        "ips": [{"address": "fd00::5/64", "interface": 0}],
        "routes": [],
    }
    _, new, _ = ask(env("ADD"), network(mode="vhost-user"), vhost)
    _, old, _ = ask(env("ADD"), network(mode="vhost-user", cniVersion="0.4.0"), vhost)
    assert new["interfaces"] == vhost["interfaces"]
    assert old["interfaces"] == [{"name": "net1", "sandbox": "c0ffee"}]
    assert old["ips"] == [{"version": "6", "address": "fd00::5/64", "interface": 0}]


@pytest.mark.parametrize("command", ["DEL", "CHECK", "STATUS", "GC"])
def test_success_without_a_result_prints_nothing(command: str) -> None:
    conf = network(prevResult={}, **{"cni.dev/valid-attachments": []})
    status, obj, daemon = ask(env(command), conf, {})
    assert (status, obj) == (0, {})
    assert [op for _, op, _ in daemon.asked] == [command.lower()]


def test_gc_hands_over_what_is_valid() -> None:
    valid = [{"containerID": "a", "ifname": "eth0"}]
    _, _, daemon = ask({"CNI_COMMAND": "GC"}, network(**{"cni.dev/valid-attachments": valid}), {})
    (asked,) = daemon.asked
    assert asked[2] == {"network": "mill", "valid": [{"container_id": "a", "ifname": "eth0"}]}


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{"cniVersion":"9.9.9"}', "1.1.0"),
        (b"", "1.1.0"),
        (b"\xff", "1.1.0"),
    ],
)
def test_version_needs_nothing(data: bytes, version: str) -> None:
    status, obj, daemon = ask({"CNI_COMMAND": "VERSION"}, data)
    assert status == 0
    assert obj == {"cniVersion": version, "supportedVersions": list(spec.VERSIONS)}
    assert not daemon.asked


REFUSED = [
    # id, environment, configuration, code, a word of the message
    ("no command", {}, b"", 4, "CNI_COMMAND"),
    ("unknown command", {"CNI_COMMAND": "add"}, b"", 4, "CNI_COMMAND"),
    ("not json", env("ADD"), b"{", 6, "not JSON"),
    ("empty", env("ADD"), b"", 6, "not JSON"),
    ("not utf-8", env("ADD"), b"\xff\xfe", 6, "not JSON"),
    ("nan", env("ADD"), b'{"mtu":NaN}', 6, "not JSON"),
    ("array", env("ADD"), b"[]", 6, "not an object"),
    ("too long", env("ADD"), b" " * (config.MAX_CONFIG_SIZE + 1), 6, "more than"),
    ("no version", env("ADD"), network(cniVersion=...), 1, "0.1.0"),
    ("old version", env("ADD"), network(cniVersion="0.2.0"), 1, "0.2.0"),
    ("future version", env("ADD"), network(cniVersion="2.0.0"), 1, "2.0.0"),
    ("version no string", env("ADD"), network(cniVersion=1), 6, "cniVersion"),
    ("check in 0.3.1", env("CHECK"), network(cniVersion="0.3.1"), 1, "CHECK"),
    ("status in 1.0.0", env("STATUS"), network(cniVersion="1.0.0"), 1, "STATUS"),
    ("gc in 1.0.0", env("GC"), network(cniVersion="1.0.0"), 1, "GC"),
    ("no name", env("ADD"), network(name=...), 7, "name"),
    ("bad name", env("ADD"), network(name="../x"), 7, "name"),
    ("no type", env("ADD"), network(type=...), 7, "type"),
    ("bad mode", env("ADD"), network(mode="tap"), 7, "mode"),
    ("mode no string", env("ADD"), network(mode=["veth"]), 7, "mode"),
    ("mtu zero", env("ADD"), network(mtu=0), 7, "mtu"),
    ("mtu true", env("ADD"), network(mtu=True), 7, "mtu"),
    ("mtu text", env("ADD"), network(mtu="1500"), 7, "mtu"),
    ("queues", env("ADD"), network(mode="vhost-user", queues=65), 7, "queues"),
    (
        "a rate that is none",
        env("ADD"),
        network(runtimeConfig={"bandwidth": {"ingressRate": "1M"}}),
        7,
        "ingressRate",
    ),
    ("bandwidth", env("ADD"), network(runtimeConfig={"bandwidth": 5}), 7, "bandwidth"),
    ("queues of a veth", env("ADD"), network(queues=2), 7, "queues"),
    ("relative socket", env("ADD"), network(socket="cni.sock"), 7, "socket"),
    ("long socket", env("ADD"), network(socket="/" + "x" * 107), 7, "socket"),
    ("surrogate socket", env("ADD"), network(socket="/\ud800"), 7, "socket"),
    ("dns", env("ADD"), network(dns={"nameservers": "1.1.1.1"}), 7, "dns"),
    ("typo in a key", env("ADD"), network(qeues=2), 2, "'qeues': 2"),
    ("ipam", env("ADD"), network(ipam={"type": "host-local"}), 2, "host-local"),
    ("ipMasq", env("ADD"), network(ipMasq=True), 2, "ipMasq"),
    ("chained", env("ADD"), network(prevResult={}), 7, "prevResult"),
    ("mac no text", env("ADD"), network(runtimeConfig={"mac": 5}), 7, "mac"),
    ("ips no list", env("ADD"), network(runtimeConfig={"ips": "10.0.0.5"}), 7, "ips"),
    ("a capability", env("ADD"), network(runtimeConfig={"aliases": []}), 2, "aliases"),
    (
        "a host port that is none",
        env("ADD"),
        network(runtimeConfig={"portMappings": [{"hostPort": 70000, "containerPort": 1}]}),
        7,
        "portMappings",
    ),
    (
        "a protocol that is none",
        env("ADD"),
        network(
            runtimeConfig={
                "portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]
            }
        ),
        7,
        "portMappings",
    ),
    ("info file", env("ADD"), network(runtimeConfig={"CNIDeviceInfoFile": "x"}), 7, "CNIDev"),
    ("routes", env("ADD"), network(routes=[{"gw": "10.0.0.1"}]), 7, "routes"),
    ("provider", env("ADD"), network(provider="../x"), 7, "provider"),
    ("socket name", env("ADD"), network(vhost_user_socket_name="a/b"), 7, "socket_name"),
    ("check without result", env("CHECK"), network(), 7, "prevResult"),
    ("gc without list", env("GC"), network(), 7, "valid-attachments"),
    ("gc bad entry", env("GC"), network(**{"cni.dev/valid-attachments": [1]}), 7, "containerID"),
    ("no container", env("ADD", CNI_CONTAINERID=None), network(), 4, "CNI_CONTAINERID"),
    ("bad container", env("DEL", CNI_CONTAINERID="../a"), network(), 4, "CNI_CONTAINERID"),
    ("no ifname", env("ADD", CNI_IFNAME=""), network(), 4, "CNI_IFNAME"),
    ("ifname path", env("ADD", CNI_IFNAME="a/b"), network(), 4, "CNI_IFNAME"),
    ("ifname dots", env("ADD", CNI_IFNAME=".."), network(), 4, "CNI_IFNAME"),
    ("ifname long", env("ADD", CNI_IFNAME="x" * 16), network(), 4, "CNI_IFNAME"),
    ("no netns", env("ADD", CNI_NETNS=None), network(), 4, "CNI_NETNS"),
    ("netns gone", env("ADD", CNI_NETNS="/run/netns/absent"), network(), 4, "CNI_NETNS"),
    ("netns relative", env("ADD", CNI_NETNS="a"), network(), 4, "CNI_NETNS"),
    ("no args", env("ADD", CNI_ARGS=None), network(), 4, "K8S_POD_NAME"),
    ("no namespace", env("ADD", CNI_ARGS="K8S_POD_NAME=a"), network(), 4, "K8S_POD_NAMESPACE"),
    ("args form", env("ADD", CNI_ARGS="K8S_POD_NAME"), network(), 4, "KEY=value"),
    ("args unknown", env("ADD", CNI_ARGS="FOO=1;" + ARGS[16:]), network(), 4, "FOO"),
    ("pod path", env("ADD", CNI_ARGS="K8S_POD_NAME=../x"), network(), 4, "K8S_POD_NAME"),
    ("uid path", env("ADD", CNI_ARGS="K8S_POD_UID=.."), network(), 4, "K8S_POD_UID"),
]


@pytest.mark.parametrize(
    ("environment", "conf", "code", "word"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
def test_wrong_input_is_refused_before_the_daemon_is_asked(
    environment: dict[str, str], conf: object, code: int, word: str
) -> None:
    status, obj, daemon = ask(environment, conf)
    assert (status, obj["code"]) == (1, code), obj
    assert word in str(obj["msg"])
    assert not daemon.asked


def test_an_error_carries_the_configurations_version() -> None:
    _, obj, _ = ask(env("ADD", CNI_IFNAME=""), network(cniVersion="0.4.0"))
    assert (obj["cniVersion"], obj["code"]) == ("0.4.0", 4)


def test_all_wrong_variables_are_named_at_once() -> None:
    wrong = env("ADD", CNI_IFNAME="", CNI_CONTAINERID="", CNI_NETNS="")
    _, obj, _ = ask(wrong, network())
    assert all(name in str(obj["msg"]) for name in ("CNI_IFNAME", "CNI_CONTAINERID", "CNI_NETNS"))


@pytest.mark.parametrize(
    ("command", "failure", "code"),
    [
        ("ADD", wire.UnreachableError("x"), 11),
        ("DEL", wire.UnreachableError("x"), 11),
        ("STATUS", wire.UnreachableError("x"), 50),
        ("ADD", wire.WireError("x"), 5),
        ("ADD", wire.RemoteError(113, "taken", "look"), 113),
        ("STATUS", wire.RemoteError(50, "not yet"), 50),
        ("ADD", wire.RemoteError(-1, ""), 103),
        ("ADD", wire.RemoteError(1 << 40, ""), 103),
        ("ADD", ZeroDivisionError(), 103),
    ],
)
def test_the_daemons_failures_become_error_objects(
    command: str, failure: Exception, code: int
) -> None:
    status, obj, _ = ask(env(command), network(), failure)
    assert (status, obj["code"]) == (1, code)
    assert obj["msg"]


@pytest.mark.parametrize(
    "result", [{}, {"interfaces": 1}, {"interfaces": [], "ips": [1], "routes": []}]
)
def test_a_daemon_of_another_form_is_an_error(result: spec.Json) -> None:
    status, obj, _ = ask(env("ADD"), network(), result)
    assert (status, obj["code"]) == (1, 103)


def test_del_works_without_namespace_pod_and_with_a_changed_configuration() -> None:
    bare = env("DEL", CNI_NETNS=None, CNI_ARGS="garbage")
    status, _, daemon = ask(bare, network(qeues=1), {})
    assert status == 0
    assert daemon.asked[0][2]["netns"] == ""


def test_a_removal_takes_any_values() -> None:
    wrong = network(mode="tap", mtu=0, queues=-1, dns=5, routes=5, prevResult=5, type=None)
    status, obj, daemon = ask(env("DEL", CNI_NETNS=""), wrong, {})
    assert (status, obj) == (0, {})
    assert daemon.asked[0][1] == "del"


def test_what_a_runtime_asks_for_is_handed_on() -> None:
    runtime = {
        "mac": "0a:58:0a:00:00:05",
        "ips": ["10.0.0.5/24", "fd00::5/64"],
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "172.18.0.11"},
            {"hostPort": 0, "containerPort": 9},
        ],
        "CNIDeviceInfoFile": "/run/devinfo/x.json",
    }
    conf = network(runtimeConfig=runtime, args={"cni": {"mac": "02:00:00:00:00:01"}})
    status, _, daemon = ask(env("ADD", CNI_ARGS=f"{ARGS};MAC=02:00:00:00:00:02"), conf)
    assert status == 0
    assert daemon.asked[0][2]["asked"] == {
        "mac": "0a:58:0a:00:00:05",
        "ips": ["10.0.0.5/24", "fd00::5/64"],
        "port_mappings": [
            {"host_port": 8080, "port": 80, "protocol": "tcp", "host_ip": "172.18.0.11"}
        ],
        "device_info": "/run/devinfo/x.json",
    }
    _, _, older = ask(env("ADD", CNI_ARGS=f"{ARGS};MAC=02:00:00:00:00:02;IP=10.0.0.5"), network())
    assert older.asked[0][2]["asked"] == {"mac": "02:00:00:00:00:02", "ips": ["10.0.0.5"]}


def test_a_definition_for_kube_ovn_serves_as_it_is() -> None:
    conf = network(
        server_socket="/run/openvswitch/kube-ovn-daemon.sock",
        provider="ovn-dpdk.default.ovn",
        vhost_user_socket_volume_name="vhostuser-sockets",
        vhost_user_socket_name="sock",
        cniVersion="0.3.0",
    )
    status, _, daemon = ask(env("ADD", CNI_NETNS=None), conf)
    assert status == 0
    path, _, args = daemon.asked[0]
    assert path == config.DEFAULT_SOCKET
    assert (args["mode"], args["provider"], args["socket_name"]) == (
        "vhost-user", "ovn-dpdk.default.ovn", "sock",
    )  # fmt: skip
    _, _, first = ask(env("ADD"), network(provider="ovn", server_socket="/run/m.sock"))
    assert (first.asked[0][0], first.asked[0][2]["provider"]) == ("/run/m.sock", "")


def test_a_chained_plugin_is_refused_with_the_way_out() -> None:
    _, obj, _ = ask(env("ADD"), network(prevResult={"interfaces": []}))
    assert obj["code"] == 7
    assert "portMappings" in str(obj["details"])


def test_a_vhost_user_port_needs_no_namespace() -> None:
    status, _, daemon = ask(env("ADD", CNI_NETNS=None), network(mode="vhost-user", queues=4))
    assert status == 0
    assert daemon.asked[0][2]["queues"] == 4


# Fuzz: whatever comes in, a CNI object goes out.

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLAUSIBLE = st.fixed_dictionaries(
    {},
    optional={
        "cniVersion": st.sampled_from(spec.VERSIONS) | JSON_VALUES,
        "name": st.just("mill") | JSON_VALUES,
        "type": st.just("millrace-cni") | JSON_VALUES,
        "socket": st.just("/run/x") | JSON_VALUES,
        "mode": st.sampled_from(config.MODES) | JSON_VALUES,
        "mtu": st.integers(0, 70000) | JSON_VALUES,
        "queues": st.integers(0, 70) | JSON_VALUES,
        "dns": JSON_VALUES,
        "prevResult": JSON_VALUES,
        "cni.dev/valid-attachments": JSON_VALUES,
    },
)
STDIN = st.binary(max_size=200) | (JSON_VALUES | PLAUSIBLE).map(lambda v: json.dumps(v).encode())
TEXT = st.text(max_size=40)
ENVIRONMENTS = st.fixed_dictionaries(
    {"CNI_COMMAND": st.sampled_from([*spec.COMMANDS_SINCE, "UPDATE"]) | TEXT},
    optional={
        "CNI_CONTAINERID": st.just("c0ffee") | TEXT,
        "CNI_NETNS": st.just(NETNS) | TEXT,
        "CNI_IFNAME": st.just("eth0") | TEXT,
        "CNI_ARGS": st.just(ARGS) | TEXT,
    },
)
RESULTS = st.just(RESULT) | st.dictionaries(
    st.sampled_from(["interfaces", "ips", "routes"]), JSON_VALUES
)


def assert_cni(status: int, obj: spec.Json | None) -> None:
    """Success, or one error object as the specification has it."""
    if status == 0:
        assert obj is None or "code" not in obj
        assert obj is None or obj["cniVersion"] in spec.VERSIONS
        return
    assert status == 1
    assert obj is not None
    assert obj["cniVersion"] in spec.VERSIONS
    assert isinstance(obj["code"], int)
    assert 1 <= obj["code"] <= spec.MAX_CODE
    assert isinstance(obj["msg"], str)
    assert obj["msg"]
    assert obj.keys() <= {"cniVersion", "code", "msg", "details"}


@settings(max_examples=600)
@given(ENVIRONMENTS, STDIN, RESULTS)
def test_anything_in_gives_a_cni_object_out(
    environment: dict[str, str], data: bytes, result: spec.Json
) -> None:
    status, obj = plugin.answer(environment, lambda: data, Daemon(result).call)
    assert_cni(status, obj)
    # And no bug of ours behind it: 103 stands only for a daemon's result of a wrong form.
    if obj is not None and obj.get("code") == spec.INTERNAL:
        assert "daemon's result" in str(obj["msg"])
    json.dumps(obj).encode("ascii")


@settings(max_examples=200)
@given(TEXT | st.lists(TEXT).map(";".join))
def test_any_cni_args_are_pairs_or_an_error(text: str) -> None:
    try:
        pairs = config.parse_args(text)
    except spec.CniError as error:
        code = error.code
    else:
        code = spec.INVALID_ENVIRONMENT
        assert all(isinstance(value, str) for value in pairs.values())
    assert code == spec.INVALID_ENVIRONMENT


def execute(environment: dict[str, str], data: bytes | None) -> tuple[int, spec.Json | None]:
    """Run the executable itself; None closes its stdin."""
    done = subprocess.run(
        [sys.executable, "-m", "cni.plugin"],
        env=environment,
        input=data,
        stdin=None if data is not None else subprocess.DEVNULL,
        capture_output=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout) if done.stdout else None


@pytest.mark.parametrize(
    ("environment", "data"),
    [
        ({}, b""),
        (env("ADD"), b"\xff\0"),
        (env("ADD"), None),
        (env("VERSION"), b""),
        (env("ADD", CNI_IFNAME="\udcff"), json.dumps(network()).encode()),
        (env("ADD"), json.dumps(network(socket="/nonexistent/cni.sock")).encode()),
        (env("STATUS"), json.dumps(network(socket="/nonexistent/cni.sock")).encode()),
    ],
    ids=["bare", "garbage", "no stdin", "version", "bytes", "no daemon", "status"],
)
def test_the_process_prints_a_cni_object(environment: dict[str, str], data: bytes | None) -> None:
    status, obj = execute(environment, data)
    assert_cni(status, obj)


def test_status_without_a_daemon_is_code_50() -> None:
    conf = json.dumps(network(socket="/nonexistent/cni.sock")).encode()
    status, obj = execute(env("STATUS"), conf)
    assert status == 1
    assert obj is not None
    assert obj["code"] == 50
    assert "/nonexistent/cni.sock" in str(obj["details"])


def test_a_closed_stdout_is_an_exit_code_and_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cni.plugin"],
            env=env("VERSION"),
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            check=False,
            timeout=60,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_executable_imports_nothing_slow() -> None:
    code = "import sys, cni.plugin; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    slow = {"argparse", "logging", "typing", "dataclasses", "inspect", "asyncio", "pathlib",
            "subprocess", "ipaddress", "pyroute2", "ovs", "re", "enum", "json", "socket",
            "selectors"}  # fmt: skip
    assert not loaded & slow
