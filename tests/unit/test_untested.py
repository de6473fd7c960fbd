"""What status says of modes that no machine of ours could run."""

from __future__ import annotations

from pathlib import Path

from controller.config import parse_node
from dataplane.plan.untested import untested

NODE = """\
[node]
name = "n"
[[bridge]]
name = "br-ex"
[[uplink]]
device = "eth1"
bridge = "br-ex"
"""

README = Path(__file__).parents[2] / "README.md"


def test_what_runs_in_the_tests_is_not_listed() -> None:
    bond = '[[bond]]\nname = "b"\nbridge = "br-ex"\ndevices = ["eth2", "eth3"]\n'
    assert untested(parse_node(NODE + bond, "n.toml")) == ()


def test_each_untested_mode_is_named_with_its_uplink_or_bond() -> None:
    text = (
        NODE
        + 'xdp_mode = "native-with-zerocopy"\nbusy_poll = true\n'
        + '[[bond]]\nname = "b"\nbridge = "br-ex"\nmode = "balance-tcp"\n'
        + 'devices = ["0000:3b:00.0", "0000:3b:00.1"]\n'
    )
    said = untested(parse_node(text, "n.toml"))
    assert [line.partition(":")[0] for line in said] == [
        "uplink eth1", "uplink eth1", "bond b", "bond b",
    ]  # fmt: skip
    for word, line in zip(("zero-copy", "busy polling", "vfio", "LACP"), said, strict=True):
        assert word in line


def test_the_readme_lists_them_too() -> None:
    table = README.read_text().partition("| not tested, and why | |")[2].partition("\n\n")[0]
    for word in ("vfio", "LACP", "Zero-copy", "Busy polling"):
        assert word in table
