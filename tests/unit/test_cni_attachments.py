"""The durable record: what is put comes back, and a bad file harms nobody else."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import attachments
from controller.attachments import AttachmentStore
from dataplane.model.addr import Mac, Protocol
from dataplane.model.devices import device_name, is_pod_link, peer_name
from dataplane.model.state import Attachment, HostPort, PortKind, Route
from tests.labs.attachments import WEB

VM = replace(WEB, device="vhu000000000002", kind=PortKind.VHOST_USER, gateway=None, addresses=())

TEXT = st.text(max_size=20)
ATTACHMENTS = st.builds(
    Attachment,
    container_id=TEXT, ifname=TEXT, kind=st.sampled_from(PortKind), netns=TEXT, iface_id=TEXT,
    device=TEXT, peer=TEXT, socket=TEXT, pod=TEXT, namespace=TEXT, pod_uid=TEXT, network=TEXT,
    mac=st.binary(min_size=6, max_size=6).map(lambda raw: Mac(raw.hex(":"))),
    addresses=st.lists(
        st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(IPv4Interface)
        | st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(IPv6Interface)
    ).map(tuple),
    gateway=st.none() | st.ip_addresses(v=4),
    gateway6=st.none() | st.ip_addresses(v=6),
    device_info=TEXT,
    routes=st.lists(
        st.builds(
            Route, st.ip_addresses().map(ip_network), st.none() | st.ip_addresses()
        )
    ).map(tuple),
    host_ports=st.lists(
        st.builds(
            HostPort, st.sampled_from(Protocol), st.integers(1, 65535), st.integers(1, 65535),
            st.none() | st.ip_addresses(),
        )
    ).map(tuple),
    mtu=st.integers(1, 65535), queues=st.integers(1, 64),
)  # fmt: skip


@given(ATTACHMENTS)
def test_a_record_survives_json(attachment: Attachment) -> None:
    text = json.dumps(attachments.encode(attachment))
    assert attachments.decode(json.loads(text)) == attachment


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXT,
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
        max_leaves=6,
    ),
    st.sampled_from(sorted(attachments.encode(WEB))),
)
def test_a_wrong_value_is_a_record_error_or_another_record(value: object, key: str) -> None:
    try:
        found = attachments.decode({**attachments.encode(WEB), key: value})
    except attachments.RecordError:
        return
    assert isinstance(found, Attachment)


def test_what_is_put_is_loaded_and_what_is_deleted_is_not(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path / "attachments")
    assert store.load_all() == ()
    store.put(VM)
    store.put(WEB)
    store.put(replace(WEB, mtu=1400))
    assert AttachmentStore(store.directory).load_all() == (replace(WEB, mtu=1400), VM)
    store.delete(VM.device)
    store.delete(VM.device)
    assert store.load_all() == (replace(WEB, mtu=1400),)
    assert {path.name for path in store.directory.iterdir()} == {"mrp000000000001.json"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "format None"),
        (b'{"format": 2}', "format 2"),
        (b'{"format": 1}', '"container_id"'),
        (json.dumps({**attachments.encode(WEB), "mac": "x"}).encode(), "Ethernet"),
        (json.dumps({**attachments.encode(WEB), "mtu": 0}).encode(), '"mtu"'),
        (json.dumps({**attachments.encode(WEB), "kind": "tap"}).encode(), "tap"),
        (json.dumps(attachments.encode(WEB)).encode(), "another name"),
        (b" " * 70_000, "more than"),
    ],
)
def test_an_unusable_file_is_put_aside_and_named(tmp_path: Path, data: bytes, reason: str) -> None:
    store = AttachmentStore(tmp_path)
    store.put(WEB)
    (tmp_path / "mrpbad.json").write_bytes(data)
    assert store.load_all() == (WEB,)
    (problem,) = store.quarantined
    assert "mrpbad.json" in problem
    assert reason in problem
    assert (tmp_path / "quarantine" / "mrpbad.json").read_bytes() == data
    assert store.load_all() == (WEB,)
    assert store.quarantined == ()


def test_another_process_looks_and_puts_nothing_aside(tmp_path: Path) -> None:
    vm = replace(VM, iface_id="vm.elsewhere")
    store = AttachmentStore(tmp_path / "attachments")
    assert store.look(WEB.iface_id) is None
    store.put(WEB)
    store.put(vm)
    (store.directory / "bad.json").write_bytes(b"{")
    (store.directory / f".{WEB.device}.json.partial").write_bytes(b"{")
    before = sorted(store.directory.iterdir())
    for one in (WEB, vm):
        assert store.look(one.iface_id) == store.look(one.device) == one
    assert store.look("nobody") is None
    assert sorted(store.directory.iterdir()) == before


def test_a_directory_in_a_records_place_is_put_aside_too(tmp_path: Path) -> None:
    (tmp_path / "mrpbad.json").mkdir()
    store = AttachmentStore(tmp_path)
    assert store.load_all() == ()
    assert len(store.quarantined) == 1


def test_a_write_that_was_cut_off_is_no_record(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path)
    store.put(WEB)
    (tmp_path / ".mrp000000000001.json.partial").write_bytes(b'{"form')
    assert store.load_all() == (WEB,)
    assert store.quarantined == ()
    assert [path.name for path in tmp_path.iterdir()] == ["mrp000000000001.json"]


def test_a_failed_write_leaves_the_earlier_record(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path)
    store.put(WEB)
    (tmp_path / ".mrp000000000001.json.partial").mkdir()
    with pytest.raises(OSError):
        store.put(replace(WEB, mtu=1))
    (tmp_path / ".mrp000000000001.json.partial").rmdir()
    assert store.load_all() == (WEB,)


@pytest.mark.parametrize("device", ["", "../x", ".hidden", "a/b"])
def test_a_device_cannot_lead_out_of_the_directory(tmp_path: Path, device: str) -> None:
    with pytest.raises(attachments.RecordError):
        AttachmentStore(tmp_path).put(replace(WEB, device=device))


@given(TEXT, TEXT, TEXT, TEXT)
def test_device_names_are_short_and_follow_from_container_and_interface(
    one: str, ifname: str, other: str, other_ifname: str
) -> None:
    for kind in PortKind:
        assert len(device_name(kind, one, ifname).encode()) == 15
        assert device_name(kind, one, ifname) == device_name(kind, one, ifname)
    assert is_pod_link(device_name(PortKind.VETH, one, ifname))
    assert not is_pod_link(device_name(PortKind.VHOST_USER, one, ifname))
    assert not is_pod_link(peer_name(PortKind.VETH, one, ifname))
    if (one, ifname) != (other, other_ifname) and "\0" not in one + ifname + other + other_ifname:
        first, second = (
            device_name(PortKind.VETH, *pair) for pair in ((one, ifname), (other, other_ifname))
        )
        assert first != second
