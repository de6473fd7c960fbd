"""What nftables and iptables are told is named as kube-proxy names it; verdicts say which rules."""

from __future__ import annotations

import pytest

from perf import judge, peerrules
from perf.peerrules import ipt_chain, nft_chain

SERVICE = ("ns1", "svc1", "tcp", "p80")


def test_chains_are_called_what_kube_proxy_calls_them() -> None:
    # As its own tests have them.
    assert nft_chain(*SERVICE) == "service-ULMVA6XW-ns1/svc1/tcp/p80"
    assert ipt_chain(*SERVICE) == "KUBE-SVC-XPGD46QRK7WJZT7O"
    assert ipt_chain(*SERVICE, "10.180.0.1:80") == "KUBE-SEP-SXIVWICOYRO3J4NJ"


@pytest.mark.parametrize(("services", "comments"), [(500, 8), (501, 2)])
def test_many_endpoints_save_the_comments_of_their_chains(services: int, comments: int) -> None:
    lines = list(peerrules._ipt_kube_proxy(services))
    of_last = [line for line in lines if f"service-{services - 1}:" in line]
    # The rule of the row and that for masquerading have theirs always.
    assert sum("--comment" in line for line in of_last) == comments


def _row(name: str, rules: str, ns: float) -> dict[str, object]:
    return {
        "sink": "xsk",
        "flows": "256 established",
        "name": name,
        "services": 1,
        "rules": rules,
        "samples_ns": [ns],
    }


def test_a_verdict_says_which_rules_the_peer_had() -> None:
    rows = [
        _row("Millrace", "", 100),
        _row("nftables", "kube-proxy", 400),
        _row("nftables", "bare", 200),
    ]
    found = judge.peers({"rows": rows})
    assert [(one.baseline, one.samples) for one in found] == [
        ("nftables, kube-proxy rules", (0.25,)),
        ("nftables, bare rules", (0.5,)),
    ]
