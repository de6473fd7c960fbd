"""From OVN's rows and the runtime's words to policers: units, bursts, bounds, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.attachments import RecordError, decode, encode
from controller.sources import Sources
from controller.translate.limits import limits_of
from controller.translate.ovn import LogicalSwitchPort, NbSnapshot, SbSnapshot
from dataplane.model.bandwidth import Bandwidth, Limits
from dataplane.model.rows import Policer
from dataplane.model.state import HeldIds, PortKind
from dataplane.plan.node import plan
from dataplane.plan.qos import bucket, burst_bytes, policer
from tests.labs.planned import CONFIG, STATE, attachment


def port(name: str = "vm.default", options: str = "", ids: str = "") -> LogicalSwitchPort:
    pairs = [dict(word.split("=", 1) for word in text.split()) for text in (options, ids)]
    return LogicalSwitchPort(name, options=pairs[0], external_ids=pairs[1])


def test_ovns_keys_hold_what_is_sent_and_ours_what_is_received() -> None:
    found, problems = limits_of(
        [
            port(
                options="qos_max_rate=10000000 qos_burst=100000",
                ids="millrace:ingress-rate=1000000",
            ),
            port("other.default"),
        ]
    )
    assert problems == ()
    sent, received = Bandwidth(10_000_000, 100_000), Bandwidth(1_000_000)
    assert found == {"vm.default": Limits(sent, received)}
    # 10 Mbit/s and 100 kbit; 1 Mbit/s with ten packets of 1500 octets and a tag.
    assert policer(found["vm.default"], 1500) == Policer(10_000, 100, 125_000, 15_040)


@pytest.mark.parametrize(
    ("options", "ids", "cause"),
    [
        ("qos_max_rate=fast", "", "'fast' is not a whole number"),
        ("qos_max_rate=63999", "", "63999 bit/s is not between 64000 and"),
        ("qos_max_rate=" + "9" * 5000, "", "is not a whole number"),
        ("qos_burst=5", "", "qos_burst without qos_max_rate"),
        ("qos_max_rate=1000000 qos_burst=-5", "", "'-5' is not a whole number"),
        ("qos_max_rate=1000000 qos_burst=900000", "", "more than 200 ms of the rate"),
        ("", "millrace:ingress-rate=1", "1 bit/s is not between"),
        ("qos_min_rate=1000000", "", "qos_min_rate needs queues of linux-htb"),
        ("qdisc_queue_id=3", "", "qdisc_queue_id needs queues of linux-htb"),
    ],
)
def test_what_cannot_be_is_said(options: str, ids: str, cause: str) -> None:
    found, (problem,) = limits_of([port(options=options, ids=ids)])
    assert cause in problem.cause
    assert problem.name == "logical port vm.default"
    assert problem.next_step
    # A burst that is too large alone leaves a limit, with the largest that can be.
    assert bool(found) == ("more than 200 ms" in cause)


def test_a_packet_of_the_mtu_fits_whatever_was_asked_for() -> None:
    assert burst_bytes(Bandwidth(64_000, 8), 9000) == 9004
    assert burst_bytes(Bandwidth(1_000_000_000), 1500) == 12_500_000
    assert burst_bytes(Bandwidth(1_000_000_000, 2**32), 1500) == 25_000_000


def test_the_plan_has_a_row_for_each_limited_vm() -> None:
    vm, pod = attachment("vm", PortKind.VHOST_USER), attachment("pod")
    runtime = Limits(receive=Bandwidth(2_000_000))
    ovn = Limits(send=Bandwidth(1_000_000))
    state = replace(
        STATE,
        attachments=(replace(vm, limits=runtime), pod),
        limits={"vm.default": ovn, "pod.default": ovn},
    )
    both = Limits(ovn.send, runtime.receive)
    assert plan(state).qos == {"mrpvm": policer(both, 1442)}
    assert plan(state).buckets == {"mrppod": bucket(ovn, 1442)}
    assert plan(replace(state, limits={}, attachments=(vm, pod))).qos == {}
    # OVN's word goes before the runtime's.
    clash = replace(state, limits={"vm.default": Limits(receive=Bandwidth(64_000))})
    assert plan(clash).qos["mrpvm"].cir == 8000


def test_the_sources_give_the_limits_of_what_is_attached_and_no_others() -> None:
    ports = {
        "u1": port("vm.default", "qos_max_rate=1000000"),
        "u2": port("elsewhere.default", "qos_max_rate=bad"),
        "u3": port("pod.default", "qos_max_rate=bad"),
    }
    sources = Sources(nb=NbSnapshot(switch_ports=ports), sb=SbSnapshot(), nics={})
    both = (attachment("vm", PortKind.VHOST_USER), attachment("pod"))
    state = sources.state(CONFIG, both, HeldIds())
    assert state.limits == {"vm.default": Limits(send=Bandwidth(1_000_000))}
    assert plan(state).qos["mrpvm"].ingress_kbps == 1000
    (problem,) = sources.problems()
    assert problem.name == "logical port pod.default"
    # A change of the row alone is seen.
    ports = {**ports, "u1": port("vm.default"), "u3": port("pod.default")}
    sources.nb = NbSnapshot(switch_ports=ports)
    assert sources.state(CONFIG, both, HeldIds()).limits == {}
    assert sources.problems() == ()


def test_a_pods_bucket_counts_octets() -> None:
    row = bucket(Limits(receive=Bandwidth(100_000_000)), 1442)
    assert row is not None
    assert (row.send_rate, row.send_burst) == (0, 0)
    assert (row.receive_rate, row.receive_burst) == (12_500_000, 1_250_000)
    assert bucket(Limits(), 1442) is None


def test_an_attachment_keeps_its_limits() -> None:
    kept = replace(attachment("vm"), limits=Limits(Bandwidth(64_000, 9), Bandwidth(5 * 10**10)))
    assert decode(encode(kept)) == kept
    older = encode(kept)
    del older["limits"]
    assert decode(older).limits == Limits()
    wrong: list[object] = [
        [],
        {"send": 5},
        {"send": [0, None]},
        {"receive": [5, -1]},
        {"send": ["5", 1]},
    ]
    for bad in wrong:
        with pytest.raises(RecordError, match="limits"):
            decode({**older, "limits": bad})
