"""Long loops over a real node: what a day of an operator's life does, in a quarter of an hour."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from bpf import abi
from bpf.pick import Candidate, table
from cni.wire import RemoteError, WireError
from dataplane.drivers import processes
from dataplane.drivers.bpfmaps import number, packed, unpacked
from dataplane.drivers.bpfstate import version_directory
from dataplane.drivers.libbpf import Map
from dataplane.drivers.processes import wait_until
from dataplane.model.addr import IPAddress, Protocol
from tests.labs import lab as topology
from tests.labs import logical, traffic
from tests.labs.lab import Lab
from tests.labs.logical import PodPort, Service
from tests.labs.netns import Namespace
from tests.labs.workloads import POD_NAMESPACE, Workload
from tests.soak.census import Census, census
from tests.soak.verdicts import Verdicts, spread

pytestmark = pytest.mark.soak

PROBE = Path(__file__).with_name("probe.py")
WEB = f"{topology.VIP_WEB}:80"
BOTH = tuple(f"{topology.CONTAINERS[name]}:{topology.PORT}" for name in ("c1", "c2"))
CHURN_VIP = "10.96.1.1"
GROWTH_KIB = 16 * 1024
"""How much memory a daemon may take more after hundreds of cycles: far less than one port's worth
for each."""


# -- attach and detach ---------------------------------------------------------------------------


@contextmanager
def _passing(lab: Lab) -> Iterator[dict[str, Workload]]:
    """Two pods that come and go: one on a veth, one with a vhost-user port."""
    place = Namespace(f"{lab.prefix}-s0").create()
    pods = {"s0": "10.1.0.40", "s1": "10.1.0.41"}
    for name, address in pods.items():
        port = PodPort(f"{name}.{POD_NAMESPACE}", "sw0", IPv4Interface(f"{address}/24"))
        logical.add_port(lab.nb, port)
    socket = lab.node.cni_socket
    try:
        yield {
            "veth": Workload("s0", f"{lab.prefix}-s0", socket, "veth", place),
            "vhost-user": Workload("s1", f"{lab.prefix}-s1", socket, "vhost-user"),
        }
    finally:
        for name in pods:
            logical.nbctl(lab.nb, "--if-exists", "lsp-del", f"{name}.{POD_NAMESPACE}")
        place.delete()


def _settled(lab: Lab, before: Census) -> list[str]:
    """What is more than before, once what is ending has had its time."""
    deadline = time.monotonic() + 20
    while (more := census(lab).more_than(before)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return more


def test_pods_come_and_go_and_leave_nothing(lab: Lab, verdicts: Verdicts, scale: float) -> None:
    cycles = max(5, round(100 * scale))
    held = []
    with _passing(lab) as pods:
        for kind, pod in pods.items():
            for _ in range(5):  # caches fill in the first ones
                pod.attach()
                pod.detach()
            before = census(lab)
            adds, deletes = [], []
            for _ in range(cycles):
                began = time.monotonic()
                pod.attach()
                middle = time.monotonic()
                pod.detach()
                adds.append((middle - began) * 1e3)
                deletes.append((time.monotonic() - middle) * 1e3)
            more, after = _settled(lab, before), census(lab)
            grown = {
                "daemon": after.daemon_kib - before.daemon_kib,
                "vswitchd": after.vswitchd_kib - before.vswitchd_kib,
            }
            held += [
                verdicts.note(
                    f"{kind}: {cycles} CNI ADD and DEL leave nothing",
                    "; ".join(more) or "no port, link, socket, record or descriptor more",
                    holds=not more,
                ),
                verdicts.note(
                    f"{kind}: memory after them",
                    ", ".join(f"{name} {kib:+} KiB" for name, kib in grown.items())
                    + f"; ADD {spread(adds)} ms, DEL {spread(deletes)} ms",
                    holds=max(grown.values()) < GROWTH_KIB,
                ),
            ]
    assert all(held)


# -- killed daemons ------------------------------------------------------------------------------


def _central_back(lab: Lab) -> bool:
    """Whether the cluster controller has both databases again, and nothing left to do."""
    try:
        status = lab.node.ask_central()
    except (WireError, RemoteError):
        return False
    return all(status["connected"].values()) and bool(status["in_sync"])


@pytest.mark.parametrize(("victim", "usual"), [("node", 30), ("central", 10)])
def test_killed_daemons_fail_no_request(
    lab: Lab, verdicts: Verdicts, scale: float, victim: str, usual: int
) -> None:
    kills = max(3, round(usual * scale))
    took, writes = [], []
    with (
        traffic.beside(lab.client, "http", topology.VIP_WEB, 80, 0, 5) as loop,
        traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as own,
        traffic.beside(lab.client, "echo", topology.VIP_VM, 80, 0) as guest,
    ):
        time.sleep(0.5)
        for _ in range(kills):
            lab.node.kill(victim)
            began = time.monotonic()
            lab.node.up()
            if victim == "central":
                wait_until(lambda: _central_back(lab), "the cluster controller is back")
            lab.node.wait_served(topology.FAST_VIPS)
            took.append(time.monotonic() - began)
            time.sleep(0.5)
            if victim == "node":
                writes.append(int(lab.node.ask("status")["last_apply"]["total_writes"]))
    answers = loop.answers
    held = [
        verdicts.note(
            f"{kills} kill -9 of {victim}: no request fails",
            f"{answers.ok} of {answers.sent} answered, slowest {answers.slowest_ms:.0f} ms; "
            f"back and converged {spread(took, '.2f')} s",
            holds=answers.all_ok,
        ),
        verdicts.note(
            f"{kills} kill -9 of {victim}: streams go on",
            f"longest silence: node's own address {own.result['longest_silence_ms']:.0f} ms, "
            f"VIP to the guest {guest.result['longest_silence_ms']:.0f} ms",
            holds=own.result["error"] == "" and guest.result["error"] == "",
        ),
    ]
    if writes:
        held.append(
            verdicts.note(
                "a restarted daemon writes nothing",
                f"{sum(writes)} writes in {kills} restarts",
                holds=sum(writes) == 0,
            )
        )
    assert all(held)


# -- a restarted vswitchd ------------------------------------------------------------------------


@contextmanager
def _probed(lab: Lab, into: list[float]) -> Iterator[None]:
    """The longest silence of the UDP service while the block runs [ms]."""
    argv = ["/usr/bin/python3", "-I", "-S", str(PROBE), topology.VIP_UDP, "53"]
    process = subprocess.Popen(
        processes.in_netns(lab.client.name, argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=processes.clean_environment(),
    )
    try:
        yield
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=30)
        into.append(float(json.loads(said)["longest_silence_ms"]))


def _back(lab: Lab, where: Namespace, address: str, began: float) -> float:
    """Seconds since `began` until an address answers echo requests."""
    wait_until(lambda: traffic.ping(where, address, 1)[0] == 1, f"{address} answers", timeout_s=90)
    return time.monotonic() - began


def test_vswitchd_restarts_heal_by_themselves(lab: Lab, verdicts: Verdicts, scale: float) -> None:
    restarts = max(2, round(10 * scale))
    silences: list[float] = []
    tunnel, guests, up = [], [], []
    with traffic.beside(lab.client, "echo", topology.NODE_ADDRESS, topology.PORT, 0) as own:
        for number in range(restarts):
            with _probed(lab, silences):
                time.sleep(1)
                began = time.monotonic()
                if number % 5 == 4:
                    lab.node.kill("ovs-vswitchd")
                    lab.node.up()
                else:
                    lab.node.restart_vswitchd()
                up.append(time.monotonic() - began)
                tunnel.append(_back(lab, lab.wire, topology.TUNNEL_ADDRESS, began))
                guests.append(
                    max(
                        _back(lab, lab.client, topology.QEMU[1], began),
                        _back(lab, lab.containers["c1"], topology.TESTPMD[1], began),
                    )
                )
                lab.node.wait_served(topology.FAST_VIPS)
                time.sleep(1)
    after = [
        traffic.http(lab.client, vip, 80, 20)
        for vip in (topology.VIP_VM, topology.VIP_WEB, topology.VIP_LOCAL)
    ]
    held = [
        verdicts.note(
            f"{restarts} restarts of vswitchd: services come back by themselves",
            f"outage of a UDP service {spread(silences)} ms; "
            f"of it until vswitchd is up {spread([s * 1e3 for s in up])} ms",
            holds=max(silences) < 60_000 and all(answers.all_ok for answers in after),
        ),
        verdicts.note("the tunnel's address is back", f"{spread(tunnel, '.2f')} s", holds=True),
        verdicts.note("both guests reconnect", f"{spread(guests, '.2f')} s", holds=True),
        verdicts.note(
            "the node's own address stays, through the kernel",
            f"longest silence {own.result['longest_silence_ms']:.0f} ms, {own.result['error']}",
            holds=own.result["error"] == "",
        ),
    ]
    assert all(held)


# -- churn ---------------------------------------------------------------------------------------


def test_churn_breaks_no_connection(lab: Lab, verdicts: Verdicts, scale: float) -> None:
    seconds = max(20.0, 300.0 * scale)
    changes = made = 0
    sets: Iterator[Sequence[str]] = itertools.cycle((BOTH[:1], BOTH, BOTH[1:], BOTH))
    with ExitStack() as stack:
        streams = [
            stack.enter_context(traffic.beside(lab.client, "echo", vip, 80, 0))
            for vip in [topology.VIP_WEB] * 4 + [topology.VIP_LOCAL] * 2 + [topology.VIP_VM] * 2
        ]
        loop = stack.enter_context(traffic.beside(lab.client, "http", topology.VIP_WEB, 80, 0, 20))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            logical.set_backends(lab.nb, "web", WEB, next(sets))
            changes += 1
            if changes % 5 == 0:
                name, vip = f"churn{made}", f"10.96.2.{made % 200 + 1}"
                logical.add_service(lab.nb, Service(name, f"{vip}:80", "tcp", BOTH))
                lab.node.wait_served([vip])
                made += 1
                assert traffic.http(lab.client, vip, 80, 2).all_ok
                logical.nbctl(lab.nb, "lb-del", name)
            time.sleep(0.2)
        logical.set_backends(lab.nb, "web", WEB, BOTH)
    broken = [one.result["error"] for one in streams if one.result["error"]]
    silences = [float(one.result["longest_silence_ms"]) for one in streams]
    answers = loop.answers
    wait_until(
        lambda: set(lab.node.services()) & {f"10.96.2.{n}" for n in range(256)} == set(),
        "the services of the churn are gone",
    )
    status = lab.node.ask("status")
    held = [
        verdicts.note(
            f"{seconds:.0f} s of churn: no connection breaks",
            f"{changes} changes of backends, {made} services made and removed, "
            f"{len(streams)} connections, {sum(one.result['lines'] for one in streams)} lines; "
            f"longest silence {max(silences):.0f} ms" + "".join(f"; {text}" for text in broken),
            holds=not broken,
        ),
        verdicts.note(
            "and every new request is answered",
            f"{answers.ok} of {answers.sent}, slowest {answers.slowest_ms:.0f} ms"
            + "".join(f"; {text}" for text in answers.failures[:3]),
            holds=answers.all_ok,
        ),
        verdicts.note(
            "the node has converged after it",
            f"{len(status['objects'])} objects not done, problems: {len(status['problems'])}",
            holds=bool(status["converged"]) and not status["problems"],
        ),
    ]
    assert all(held)


# -- who goes where ------------------------------------------------------------------------------


def _owners(lab: Lab) -> list[IPAddress]:
    """The backend of every slot of the service, from the pinned maps."""
    with ExitStack() as stack:
        directory = version_directory(f"/sys/fs/bpf/millrace/{lab.node.name}")
        maps = {
            name: stack.enter_context(Map.at(directory / name))
            for name in ("vips", "sets", "members", "backends")
        }
        key = abi.VIP_KEY.pack(addr=packed(IPv4Address(CHURN_VIP)), port=80, proto=Protocol.TCP)
        entry = maps["vips"].lookup(key)
        if entry is None:
            return []
        held = abi.SET.unpack(
            maps["sets"].lookup(number(2 * abi.VIP.unpack(entry)["service_id"])) or b""
        )
        members = []
        for at in range(held["first"], held["first"] + held["count"]):
            held_member = abi.MEMBER.unpack(maps["members"].lookup(number(at)) or b"")
            members.append(Candidate(held_member["key"], held_member["backend_id"]))
        address = {}
        for member in members:
            row = maps["backends"].lookup(number(member.backend_id)) or b""
            address[member.backend_id] = unpacked(abi.BACKEND.unpack(row)["addr"])
        return [address[slot] for slot in table(members).tolist()] if members else []


def _table_of(lab: Lab, wanted: set[IPAddress]) -> list[IPAddress]:
    """The table once these are its backends."""
    wait_until(lambda: set(_owners(lab)) == wanted, "the table has changed")
    return _owners(lab)


def test_few_flows_move_when_backends_change(lab: Lab, verdicts: Verdicts) -> None:
    """In the tables that the node really has; `targets` need not answer."""
    targets = [f"10.1.0.{host}:{topology.PORT}" for host in range(100, 120)]
    addresses: list[IPAddress] = [IPv4Address(target.partition(":")[0]) for target in targets]
    vip = f"{CHURN_VIP}:80"
    logical.add_service(lab.nb, Service("churn", vip, "tcp", tuple(targets)))
    moved, shares = [], []
    try:
        before: list[IPAddress] = []
        for count in (20, 19, 20, 15, 20, 10, 11, 20):
            logical.set_backends(lab.nb, "churn", vip, targets[:count])
            wanted = set(addresses[:count])
            now = _table_of(lab, wanted)
            if before:
                stayed = set(before) & wanted
                pairs = [(a, b) for a, b in zip(before, now, strict=True) if a in stayed]
                # A flow that a new backend takes over had to move to somebody.
                needless = [(a, b) for a, b in pairs if a != b and b in stayed]
                moved.append(100 * len(needless) / len(pairs))
            shares.append(max(now.count(one) for one in wanted) * count / len(now))
            before = now
    finally:
        logical.nbctl(lab.nb, "lb-del", "churn")
    assert verdicts.note(
        "needless moves of other flows when backends change",
        f"{spread(moved, '.1f')} %; fullest backend {max(shares):.3f} of an even share",
        holds=max(moved) == 0 and max(shares) < 1.1,
    )
