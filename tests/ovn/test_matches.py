"""Which matches OVN parses: `controller.network.matches` beside a real ovn-controller's log."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.network.matches import fault
from dataplane.drivers.unixctl import UnixctlClient
from tests.labs.matchtexts import PARSED, REFUSED, UNKNOWN
from tests.labs.ovnsandbox import OvnSandbox, wait_until


@pytest.fixture(scope="module")
def box() -> Iterator[OvnSandbox]:
    # Not pytest's tmp_path: a unix socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="mrv-mat-") as directory:
        found = OvnSandbox(Path(directory))
        try:
            found.start()
            found.start_chassis("n1", "127.0.0.1", "phys", "br-phys")
            wait_until("br-int is there", lambda: "br-int" in found.vsctl("list-br"))
            yield found
        finally:
            found.stop()


def test_we_refuse_what_ovn_cannot_parse_and_nothing_else(box: OvnSandbox) -> None:
    (control,) = box.directory.glob("ovn-controller.*.ctl")
    UnixctlClient(str(control)).call("vlog/disable-rate-limit")
    box.switch("s")
    box.vm("s", "a-b.c", "0a:00:00:00:00:01", "10.0.0.9")
    box.vsctl("add-port", "br-int", "p0", "--", "set", "Interface", "p0", "type=dummy",
              "external_ids:iface-id=a-b.c")  # fmt: skip
    matches = (*PARSED, *UNKNOWN, *(match for match, _ in REFUSED))
    for at, match in enumerate(matches):
        box.nbctl("--id=@a", "create", "ACL", "direction=to-lport", f"priority={at + 1}",
                  "action=drop", f"match={json.dumps(match)}", "--", "add", "logical_switch", "s",
                  "acls", "@a")  # fmt: skip
    log = box.directory / "controller.log"
    # Whatever is behind all of these in its work was read after them.
    wait_until(
        "the last one was refused",
        lambda: f'"{matches[-1]}"' in log.read_text(encoding="utf-8", errors="replace"),
    )
    box.nbctl("--timeout=60", "--wait=hv", "sync")
    lines = [
        line
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if "error parsing match" in line
    ]
    refused = {match for match in matches if any(f'match "{match}"' in line for line in lines)}
    assert refused - set(UNKNOWN) == {match for match in matches if fault(match)}
    assert refused >= set(UNKNOWN)
