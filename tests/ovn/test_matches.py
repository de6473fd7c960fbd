"""Which matches OVN parses: `controller.network.matches` beside a real ovn-controller's log."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from controller.network.matches import fault
from controller.network.matchfields import COSTLY, FIELDS, TEXT
from dataplane.drivers.unixctl import UnixctlClient
from tests.labs.matchtexts import BROADER, PARSED, REFUSED, UNKNOWN
from tests.labs.ovnsandbox import OvnSandbox, wait_until

LACKING_NAMES = (
    "nd_ns_mcast flags.localnet flags.icmp_snat flags.tunnel_rx flags.from_ctrl"
    " ct_mark.allow_established ct_mark.obs_stage ct_mark.obs_collector_id ct_label.obs_point_id"
    " ct_label.obs_unused ct_nw_dst ct_nw_src ct_ip6_dst ct_ip6_src"
)
LACKING = frozenset(LACKING_NAMES.split())
"""What our tables have and OVN 23.03 has not: later versions do."""


@pytest.fixture(scope="module")
def box() -> Iterator[OvnSandbox]:
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-mat-") as directory:
        found = OvnSandbox(Path(directory))
        try:
            found.start()
            found.start_chassis("n1", "127.0.0.1", "phys", "br-phys")
            wait_until("br-int is there", lambda: "br-int" in found.vsctl("list-br"))
            (control,) = found.directory.glob("ovn-controller.*.ctl")
            UnixctlClient(str(control)).call("vlog/disable-rate-limit")
            found.switch("s")
            found.vm("s", "a-b.c", "0a:00:00:00:00:01", "10.0.0.9")
            found.vsctl("add-port", "br-int", "p0", "--", "set", "Interface", "p0", "type=dummy",
                        "external_ids:iface-id=a-b.c")  # fmt: skip
            yield found
        finally:
            found.stop()


def refused_by_ovn(box: OvnSandbox, matches: Sequence[str]) -> set[str]:
    """Those that ovn-controller says it cannot parse, when each is the match of an ACL."""
    log = box.directory / "controller.log"
    before = log.stat().st_size

    def said() -> str:
        return log.read_bytes()[before:].decode(errors="replace")

    last = "no.field.of.any.version"
    rows: list[str] = []
    for at, match in enumerate((*matches, last)):
        rows += ["--", f"--id=@a{at}", "create", "ACL", "direction=to-lport",
                 f"priority={at + 1}", "action=drop", f"match={json.dumps(match)}",
                 "--", "add", "logical_switch", "s", "acls", f"@a{at}"]  # fmt: skip
    box.nbctl("clear", "logical_switch", "s", "acls", *rows)
    wait_until("the last one was refused", lambda: f'"{last}"' in said())
    # Whatever it had not read then, it has now.
    box.nbctl("--timeout=60", "--wait=hv", "sync")
    lines = [line for line in said().splitlines() if "error parsing match" in line]
    return {match for match in matches if any(f'match "{match}"' in line for line in lines)}


def test_we_refuse_what_ovn_cannot_parse_and_nothing_else(box: OvnSandbox) -> None:
    instead = tuple(match for _, match in BROADER)
    matches = (*PARSED, *instead, *UNKNOWN, *(match for match, _ in REFUSED))
    refused = refused_by_ovn(box, matches)
    assert refused - set(UNKNOWN) == {match for match in matches if fault(match)}
    assert refused >= set(UNKNOWN)


def test_every_field_that_we_know_is_one_of_ovns_and_as_wide_as_we_think(box: OvnSandbox) -> None:
    asked = {
        match: name
        for name, width in FIELDS.items()
        for match in (
            (f'{name} == "a-b.c"', f"!{name}")
            if width == TEXT
            else (f"{name} == {(1 << width) - 1:#x}", f"{name} == {1 << width:#x}", f"!{name}")
        )
        # Those would bring this ovn-controller, too, to a standstill.
        if not (match[0] == "!" and name in COSTLY)
    }
    assert set(asked.values()) == set(FIELDS)
    assert set(FIELDS) >= LACKING
    refused = refused_by_ovn(box, list(asked))
    lacking = {match for match, name in asked.items() if name in LACKING}
    assert refused == lacking | {match for match in asked if fault(match)}
