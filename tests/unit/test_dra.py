"""The DRA driver as kubelet meets it, and what the binding plugin reads of its work."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from cni.dra import claims
from cni.dra.api import Api
from cni.dra.api import server as server_of
from cni.dra.claims import DRIVER, ClaimError, Json
from cni.dra.driver import VERSIONS, Driver, Places, ask_daemon, make_servers
from cni.kubevirt import vmi

UID = "c7e7b22e-239b-4498-b27c-7f1344481e14"


def claim(**changed: object) -> dict[str, Any]:
    """A ResourceClaim that a template made for a virt-launcher pod."""
    result = {"request": "vhost-port", "driver": DRIVER, "pool": "node1", "device": "br-int"}
    devices: dict[str, object] = {"results": [result], "config": []}
    devices |= {key: changed.pop(key) for key in ("results", "config") if key in changed}
    pods = [{"resource": "pods", "name": "virt-launcher-vm1-x2x4z", "uid": "p-1"}]
    return {
        "metadata": {
            "name": "virt-launcher-vm1-x2x4z-dpdk-7pk2c", "namespace": "tests", "uid": UID,
            "annotations": {claims.POD_CLAIM: "dpdk"},
        } | dict(changed.pop("metadata", {})),  # type: ignore[call-overload]
        "status": {"allocation": {"devices": devices}, "reservedFor": pods} | changed,
    }  # fmt: skip


def parameters(provider: str, *requests: str, **more: object) -> dict[str, object]:
    kind = dict(zip(("apiVersion", "kind"), claims.PARAMETERS, strict=True))
    found = {"driver": DRIVER, "parameters": {**kind, "provider": provider, **more}}
    return {"requests": list(requests), "opaque": found}


@dataclass(slots=True)
class NodeDaemon:
    """Answers ADD and DEL as the node daemon does, and remembers what is attached."""

    attached: dict[tuple[str, str], Json] = field(default_factory=dict)
    fails: str = ""

    def ask(self, command: str, args: Json) -> Json:
        if self.fails:
            raise ClaimError(self.fails)
        key = str(args["container_id"]), str(args["ifname"])
        if command == "DEL":
            self.attached.pop(key, None)
            return {}
        self.attached[key] = args
        socket = f"/run/millrace/node1/vhost/{key[0]}/{key[1]}.sock"
        return {"interfaces": [{"name": key[1], "mtu": 1442, "socketPath": socket}]}


def _protobuf() -> dict[str, type]:
    """Kubelet's messages by the protobuf library: the oracle for what we write and read."""
    file = descriptor_pb2.FileDescriptorProto(name="dra.proto", package="d", syntax="proto3")

    def add(name: str, *fields: tuple[str, int, str, bool]) -> None:
        message = file.message_type.add(name=name)
        for title, number, kind, many in fields:
            one = message.field.add(name=title, number=number, label=3 if many else 1)
            one.type = 9 if kind == "string" else 11
            if kind != "string":
                one.type_name = f".d.{kind}"

    add("Claim", *((n, i, "string", False) for i, n in enumerate(("namespace", "uid", "name"), 1)))
    add("Request", ("claims", 1, "Claim", True))
    names = ("request_names", "pool_name", "device_name", "cdi_device_ids")
    many = {"request_names", "cdi_device_ids"}
    add("Device", *((n, i, "string", n in many) for i, n in enumerate(names, 1)))
    add("Prepared", ("devices", 1, "Device", True), ("error", 2, "string", False))
    add("PreparedEntry", ("key", 1, "string", False), ("value", 2, "Prepared", False))
    add("PreparedAll", ("claims", 1, "PreparedEntry", True))
    add("Unprepared", ("error", 1, "string", False))
    add("UnpreparedEntry", ("key", 1, "string", False), ("value", 2, "Unprepared", False))
    add("UnpreparedAll", ("claims", 1, "UnpreparedEntry", True))
    names = ("type", "name", "endpoint", "supported_versions")
    add("Info", *((n, i, "string", i == 4) for i, n in enumerate(names, 1)))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        one.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"d.{one.name}"))
        for one in file.message_type
    }


PROTO = _protobuf()


@dataclass(frozen=True, slots=True)
class Kubelet:
    """Kubelet's side of the two sockets."""

    places: Places
    daemon: NodeDaemon
    api: dict[str, Any]

    def call(self, method: str, message: Any, answer: str, socket: Path | None = None) -> Any:
        with grpc.insecure_channel(f"unix:{socket or self.places.plugin / 'dra.sock'}") as channel:
            data = channel.unary_unary(method)(message.SerializeToString(), timeout=30)
        back = PROTO[answer]()
        back.ParseFromString(data)
        return back

    def claims(self, verb: str, answer: str, version: str = "v1.DRAPlugin") -> dict[str, Any]:
        wanted = {"namespace": "tests", "uid": UID, "name": "c"}
        request = PROTO["Request"](claims=[PROTO["Claim"](**wanted)])
        found = self.call(f"/{VERSIONS[version]}/{verb}", request, answer)
        return {entry.key: entry.value for entry in found.claims}

    def prepare(self, version: str = "v1.DRAPlugin") -> Any:
        return self.claims("NodePrepareResources", "PreparedAll", version)[UID]

    def unprepare(self) -> Any:
        return self.claims("NodeUnprepareResources", "UnpreparedAll")[UID]


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    # Not below pytest's directory: the name of the registration's socket is long enough alone.
    top = Path(tempfile.mkdtemp(prefix="mrd-", dir="/tmp"))
    places = Places(top / "k", top / "cdi")
    found = Kubelet(places, NodeDaemon(), {"claim": claim()})
    servers = make_servers(Driver(places, lambda _path: found.api["claim"], found.daemon.ask))
    for server in servers:
        server.start()
    yield found
    for server in servers:
        server.stop(None)
    shutil.rmtree(top)


def inside(kubelet: Kubelet, path: str) -> str:
    """A path of the pod's containers on the node, by the CDI specification."""
    spec = json.loads(kubelet.places.spec(UID).read_text())
    for device in spec["devices"]:
        for mount in device["containerEdits"]["mounts"]:
            if path == mount["containerPath"] or path.startswith(mount["containerPath"] + "/"):
                return str(mount["hostPath"] + path.removeprefix(mount["containerPath"]))
    raise AssertionError(f"{path} is not in {spec}")


def test_kubelet_finds_the_driver(kubelet: Kubelet) -> None:
    info = kubelet.call(
        "/pluginregistration.Registration/GetInfo", PROTO["Request"](), "Info",
        kubelet.places.registration,
    )  # fmt: skip
    assert (info.type, info.name) == ("DRAPlugin", DRIVER)
    assert info.endpoint == str(kubelet.places.plugin / "dra.sock")
    assert list(info.supported_versions) == ["v1.DRAPlugin", "v1beta1.DRAPlugin"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_claim_is_a_port_that_the_binding_plugin_finds(kubelet: Kubelet, version: str) -> None:
    answer = kubelet.prepare(version)
    assert answer.error == ""
    (device,) = answer.devices
    assert list(device.request_names) == ["vhost-port"]
    assert (device.pool_name, device.device_name) == ("node1", "br-int")
    assert list(device.cdi_device_ids) == [f"{DRIVER}/vhost-user={UID}-vhost-port"]
    # As KubeVirt's plugin reads it: the driver's file of the pod's claim and request.
    path = (
        "/var/run/kubernetes.io/dra-device-attributes/resourceclaimtemplates/dpdk/vhost-port/"
        f"{DRIVER}-metadata.json"
    )
    text = Path(inside(kubelet, path)).read_bytes()
    found = vmi.parse_device_metadata(text, vmi.Claim("dpdk", "vhost-port"))
    assert found == vmi.Device("/var/run/ovsdpdk/dpdk/vhost-port/vhost.sock", 1442)
    assert inside(kubelet, found.path) == f"/run/millrace/node1/vhost/{UID}/vhost.sock"
    (args,) = kubelet.daemon.attached.values()
    assert (args["pod"], args["namespace"]) == ("virt-launcher-vm1-x2x4z", "tests")
    assert json.loads(text)["podClaimName"] == "dpdk"


def test_once_more_is_the_same_and_nothing_is_left_after(kubelet: Kubelet) -> None:
    first = kubelet.prepare()
    (file,) = kubelet.places.claim(UID).glob("*-metadata.json")
    before = file.read_text()
    assert kubelet.prepare() == first
    assert file.read_text() == before
    assert kubelet.unprepare().error == kubelet.unprepare().error == ""
    assert kubelet.daemon.attached == {}
    assert list(kubelet.places.cdi.iterdir()) == []
    assert not kubelet.places.claim(UID).exists()


def test_what_changed_has_a_higher_generation(kubelet: Kubelet) -> None:
    kubelet.prepare()
    kubelet.api["claim"]["metadata"]["annotations"][claims.POD_CLAIM] = "other"
    kubelet.prepare()
    (file,) = kubelet.places.claim(UID).glob("*-metadata.json")
    assert json.loads(file.read_text())["metadata"]["generation"] == 2


def test_a_failure_is_said_and_what_was_begun_is_taken_back_later(kubelet: Kubelet) -> None:
    kubelet.daemon.fails = "OVN has no logical switch port"
    assert kubelet.prepare().error == "millrace: OVN has no logical switch port"
    assert "no logical" in kubelet.unprepare().error
    kubelet.daemon.fails = ""
    assert kubelet.unprepare().error == ""
    assert not kubelet.places.claim(UID).exists()


def test_several_requests_have_a_logical_port_each(kubelet: Kubelet) -> None:
    one = claim()["status"]["allocation"]["devices"]["results"][0]
    results = [one, {**one, "request": "second/fast"}]
    kubelet.api["claim"] = claim(results=results)
    assert "several requests for one logical port" in kubelet.prepare().error
    config = [parameters("net2.tests.ovn", "second")]
    kubelet.api["claim"] = claim(results=results, config=config)
    assert [list(d.request_names) for d in kubelet.prepare().devices] == [
        ["vhost-port"],
        ["second"],
    ]
    provided = {key[1]: args["provider"] for key, args in kubelet.daemon.attached.items()}
    assert provided == {"vhost": "", "vhost1": "net2.tests.ovn"}
    assert inside(kubelet, "/var/run/ovsdpdk/dpdk/second/vhost1.sock").endswith("/vhost1.sock")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reservedFor": []}, "reserved for 0 pods"),
        ({"allocation": None}, "allocation is a JSON NoneType"),
        ({"results": []}, f"no device of {DRIVER}"),
        ({"config": [parameters("p", vlan=7)]}, "VLANs and limits are OVN's"),
        ({"config": [parameters("../p")]}, "has provider '../p'"),
        ({"metadata": {"name": "a/b"}}, "has name 'a/b'"),
        ({"metadata": {"annotations": {claims.POD_CLAIM: ".."}}}, "pod-claim-name '..'"),
        ({"metadata": {"uid": "another"}}, "is another one by now"),
    ],
)
def test_a_claim_that_cannot_be_is_refused(
    kubelet: Kubelet, changed: dict[str, object], words: str
) -> None:
    kubelet.api["claim"] = claim(**changed)
    assert words in kubelet.prepare().error
    assert kubelet.daemon.attached == {}


def test_a_claim_without_a_template_has_its_own_name_in_paths() -> None:
    found = claims.parse_claim(claim(metadata={"annotations": {}, "name": "mine"}))
    path = claims.metadata_path(found, "vhost-port")
    assert "/resourceclaims/mine/vhost-port/" in path


def test_a_daemon_that_is_away_is_named(tmp_path: Path) -> None:
    args: Json = {"container_id": UID, "ifname": "vhost", "pod": "p", "namespace": "n"}
    with pytest.raises(ClaimError, match="ADD of p: the node daemon does not answer"):
        ask_daemon(str(tmp_path / "cni.sock"))("ADD", args)


class _Slices(BaseHTTPRequestHandler):
    """A cluster's ResourceSlices, of which there is one at most."""

    stored: list[Any]
    calls: list[str]

    def do_GET(self) -> None:
        self._answer(self.stored[0] if self.stored else None)

    def do_POST(self) -> None:
        self.stored.append(self._body())
        self._answer(self.stored[0])

    def do_PUT(self) -> None:
        self.stored[0] = self._body()
        self._answer(self.stored[0])

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, obj: Any) -> None:
        self.calls.append(f"{self.command} {self.headers.get('Authorization')}")
        self.send_response(404 if obj is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(obj or {}).encode())

    def log_message(self, *_words: object) -> None:
        pass


def test_the_slice_is_published_once_and_put_right(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    _Slices.stored, _Slices.calls = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slices) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        api = Api(f"http://127.0.0.1:{server.server_address[1]}", tmp_path)
        api.publish("node1")
        api.publish("node1")
        _Slices.stored[0]["spec"]["devices"] = []
        _Slices.stored[0]["metadata"]["resourceVersion"] = "7"
        api.publish("node1")
        server.shutdown()
        thread.join()
    (found,) = _Slices.stored
    assert found["spec"]["pool"] == {"name": "node1", "generation": 2, "resourceSliceCount": 1}
    assert found["spec"]["devices"][0]["allowMultipleAllocations"] is True
    assert found["metadata"]["resourceVersion"] == "7"
    assert [call.split()[0] for call in _Slices.calls] == ["GET", "POST", "GET", "GET", "PUT"]
    assert {call.split(" ", 1)[1] for call in _Slices.calls} == {"Bearer secret"}


class _Forgetful(_Slices):
    """A server whose feature gate is off: it drops the fields of the feature."""

    def _body(self) -> Any:
        found = super()._body()
        for device in found["spec"]["devices"]:
            del device["allowMultipleAllocations"]
        return found


def test_a_slice_of_which_the_api_keeps_a_part_is_not_written_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    _Forgetful.stored, _Forgetful.calls = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Forgetful) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        api = Api(f"http://127.0.0.1:{server.server_address[1]}", tmp_path)
        for _ in range(3):
            api.publish("node1")
        _Forgetful.stored[0]["spec"]["devices"] = []
        api.publish("node1")
        api.publish("node1")
        server.shutdown()
        thread.join()
    verbs = [call.split()[0] for call in _Forgetful.calls]
    assert verbs == ["GET", "POST", "GET", "GET", "GET", "PUT", "GET"]
    assert "DRAConsumableCapacity" in caplog.text


def test_the_api_may_have_an_ipv6_address() -> None:
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    assert server_of(env) == "https://[fd00::1]:443"
    assert server_of(env | {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) == "https://10.0.0.1:443"


def test_an_api_that_refuses_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ClaimError, match="GET /x"):
        Api("http://127.0.0.1:9", tmp_path).get("/x")
