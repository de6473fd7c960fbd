"""Every object loads on the oldest kernel that we promise: its verifier knows less than ours."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bpf.objects import OBJECT_DIRECTORY
from tests.labs import oldestkernel

pytestmark = pytest.mark.system

FLOOR = "6.1."
"""As the doctor asks for; Debian 12's."""

TOO_DEEP = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__noinline int inner(struct xdp_md *ctx)
{
	volatile char room[240] = {};

	return room[ctx->rx_queue_index & 127];
}

SEC("xdp")
int outer(struct xdp_md *ctx)
{
	volatile char room[264] = {};

	return inner(ctx) + room[ctx->rx_queue_index & 127];
}
"""
"""512 octets of stack as later kernels count them, 544 as the oldest does."""


def test_the_oldest_kernel_loads_every_object_and_would_say_no(tmp_path: Path) -> None:
    ours = sorted(OBJECT_DIRECTORY.glob("*.bpf.o"))
    refused = tmp_path / "too_deep.bpf.o"
    source = tmp_path / "too_deep.bpf.c"
    source.write_text(TOO_DEEP)
    flags = ["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-isystem", "/usr/include/x86_64-linux-gnu"]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(refused)], check=True)
    said = oldestkernel.judge([*ours, refused], tmp_path)
    assert said.kernel.startswith(FLOOR), said.console
    assert set(said.refused) == {refused.name}, said.console
    assert "combined stack size of 2 calls is 544" in said.console
    assert said.loaded == {path.name for path in ours}
