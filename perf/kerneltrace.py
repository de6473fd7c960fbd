"""`millrace perf kernel-latency`: what packets wait for inside the kernel, by BCC on tracepoints.

BCC compiles kernelhops.c here and now, for which it needs headers of a kernel: those of the running
one, or any tree that the environment's BCC_KERNEL_SOURCE names (kernelhops.c says why any will do).
Where it cannot, the reason is told and nothing is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataplane.ports import DataplaneError
from perf import kernelhops
from perf.kernelhops import REDIRECTS, SLICES, Drops, Histogram, Polls, Redirects, Report

OK, FAILED, USAGE, ABSENT = 0, 1, 2, 3
SOURCE = Path(__file__).with_name("kernelhops.c")
ENVIRONMENT = "BCC_KERNEL_SOURCE"
MOST_SECONDS = 3600.0
READY = "attached"
"""The line of standard error from which on packets are seen."""

_TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_NEEDED = ("net:netif_receive_skb", "net:net_dev_queue", "net:net_dev_start_xmit")
_WANTED = (
    "net:napi_gro_receive_entry", "net:netif_rx", "skb:consume_skb", "skb:kfree_skb",
    "irq:softirq_raise", "napi:napi_poll", "xdp:xdp_redirect", "xdp:xdp_redirect_err",
    "xdp:xdp_exception", "xdp:xdp_devmap_xmit",
)  # fmt: skip
_REASON = re.compile(r'\{ (\d+), "(\w+)" \}')
_MISSES = re.compile(r"^recursion_misses:\s*(\d+)$", re.MULTILINE)
"""Of a program, in its file descriptor's information."""

_COMMON = re.compile(r"^include\s+(/\S+)/Makefile$", re.MULTILINE)
ARCHITECTURE = "x86" if os.uname().machine == "x86_64" else os.uname().machine
_CLONE_NEWNS, _MS_REC, _MS_SLAVE = 0x00020000, 1 << 14, 1 << 19
"""linux/sched.h and linux/mount.h"""


class AbsentError(DataplaneError):
    """This machine cannot do it; the text says what it lacks and how it gets it."""


def _lacking(what: str, then: str) -> AbsentError:
    return AbsentError(f"absent here: latency inside the kernel: {what}; {then}")


@contextmanager
def headers() -> Iterator[Path]:
    """A tree that BCC can compile with.

    Debian's headers are in two folders, one of which includes the other; BCC knows that form below
    /lib/modules only, so they are put together as one folder of links.

    Raises:
        AbsentError: there is none, or it is not configured.
    """
    named = os.environ.get(ENVIRONMENT)
    tree = Path(named or f"/lib/modules/{os.uname().release}/build")
    if not (tree / "include").is_dir():
        what = f"{ENVIRONMENT}={named} has no include/" if named else f"no kernel headers at {tree}"
        msg = f"{what}, and BCC compiles with them"
        raise _lacking(
            msg,
            f"set {ENVIRONMENT} to a header tree, which may be another kernel's (Debian: package "
            "linux-headers-cloud-amd64, then /usr/src/linux-headers-*-cloud-amd64)",
        )
    if not (tree / "include/generated/autoconf.h").exists():
        msg = f"{tree} is not configured: include/generated/autoconf.h is missing"
        raise _lacking(
            msg,
            "of Debian's two folders name that without -common; of sources, `make prepare` first",
        )
    if (tree / "include/linux/kconfig.h").exists():
        yield tree
        return
    with tempfile.TemporaryDirectory(prefix="millrace-headers-") as scratch:
        yield _joined(tree, Path(scratch))


def _joined(tree: Path, into: Path) -> Path:
    makefile = tree / "Makefile"
    told = _COMMON.search(makefile.read_text(encoding="utf-8")) if makefile.exists() else None
    other = Path(told[1]) if told else tree
    if not other.is_dir():
        # Unpacked elsewhere than installed.
        other = tree.parent / other.name
    if not (other / "include/linux/kconfig.h").exists():
        msg = f"{tree} has no include/linux/kconfig.h, and neither has {other}"
        raise _lacking(
            msg,
            "install or unpack the other half of the headers beside it",
        )

    for part in ("include", f"arch/{ARCHITECTURE}/include"):
        (into / part).mkdir(parents=True)
        for half in (tree, other):
            for entry in (half / part).iterdir():
                link = into / part / entry.name
                if not link.is_symlink():
                    link.symlink_to(entry)
    return into


def _tracefs() -> Path:
    """Where tracefs is; where it is nowhere, it is mounted for this process alone.

    Raises:
        AbsentError: the kernel has none.
    """
    for path in _TRACEFS:
        if (path / "events").is_dir():
            return path
    libc = ctypes.CDLL(None, use_errno=True)
    path = _TRACEFS[0]
    done = (
        libc.unshare(_CLONE_NEWNS) == 0
        and libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) == 0
        and libc.mount(b"tracefs", os.fsencode(path), b"tracefs", 0, None) == 0
    )
    if not done:
        msg = f"tracefs cannot be mounted at {path}: {os.strerror(ctypes.get_errno())}"
        raise _lacking(msg, "the kernel needs CONFIG_FTRACE, and this needs root")
    return path


def _format(tracefs: Path, name: str) -> str | None:
    with contextlib.suppress(OSError):
        return (tracefs / "events" / name.replace(":", "/") / "format").read_text(encoding="utf-8")
    return None


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What C code writes to standard error meanwhile, as lines, once it is over."""
    lines: list[str] = []
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _bindings() -> Any:
    try:
        import bcc
    except ImportError as error:
        msg = f"BCC's Python bindings: {error}"
        raise _lacking(msg, "apt-get install python3-bpfcc") from error
    return bcc


def check() -> None:
    """What can be told without compiling.

    Raises:
        AbsentError: BCC or the headers are missing.
    """
    _bindings()
    with headers():
        pass


class Trace:
    """The programs, attached until this is closed."""

    def __init__(self) -> None:
        """Compile and attach.

        Raises:
            AbsentError: BCC, headers, tracefs or a tracepoint are missing, or BCC does not compile.
        """
        bcc = _bindings()
        tracefs = _tracefs()
        formats = {name: _format(tracefs, name) for name in (*_NEEDED, *_WANTED)}
        for name in _NEEDED:
            if formats[name] is None:
                msg = f"the tracepoint {name}"
                raise _lacking(msg, "the kernel needs CONFIG_TRACEPOINTS")
        self.absent = tuple(name for name in _WANTED if formats[name] is None)
        flags = [f"-DHAVE_{name.replace(':', '_').upper()}" for name in _WANTED if formats[name]]
        if formats["irq:softirq_raise"]:
            flags.append("-DHAVE_SOFTIRQ")
        dropped = formats["skb:kfree_skb"] or ""
        if " reason;" in dropped:
            flags.append("-DHAVE_REASON")
        self._reasons = {int(number): name for number, name in _REASON.findall(dropped)}
        with headers() as tree:
            self.headers = os.environ.get(ENVIRONMENT) or str(tree)
            self._bpf = self._compiled(bcc, tree, flags)
        self._began = time.monotonic()

    def _compiled(self, bcc: Any, tree: Path, flags: Sequence[str]) -> Any:
        named = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = str(tree)
        try:
            with _complaints() as lines:
                return bcc.BPF(text=SOURCE.read_text(encoding="utf-8"), cflags=list(flags))
        except Exception as error:  # BCC raises nothing more precise
            told = [line for line in lines if "error" in line.lower()] or lines
            first = told[0].strip() if told else str(error)
            msg = f"BCC {bcc.__version__} cannot compile or load it with {self.headers}: {first}"
            raise _lacking(
                msg,
                f"set {ENVIRONMENT} to another header tree",
            ) from error
        finally:
            if named is None:
                del os.environ[ENVIRONMENT]
            else:
                os.environ[ENVIRONMENT] = named

    def report(self, devices: Sequence[str] = ()) -> Report:
        """What was seen since the start; with devices, only hops that touch one of them."""
        took = time.monotonic() - self._began
        hops = kernelhops.hops(
            (key["from"], _text(key["from_device"]), key["to"], _text(key["to_device"]),
             key["slot"], count)
            for key, count in self._counts("hops")
        )  # fmt: skip
        softirqs: dict[str, dict[int, int]] = {}
        for key, count in self._counts("slices"):
            softirqs.setdefault(SLICES[key["work"]], {})[key["slot"]] = count
        polls = [
            Polls(_text({"name": key.name}), *(sum(getattr(one, each) for one in values)
                                               for each in ("calls", "packets", "exhausted")))
            for key, values in self._bpf["polled"].items()
        ]  # fmt: skip
        drops = [
            Drops(_text(key["device"]), self._reasons.get(key["number"], str(key["number"])), count)
            for key, count in self._counts("reasons")
        ]
        redirects = [
            Redirects(REDIRECTS[key["kind"]], key["from"], key["to"], count)
            for key, count in self._counts("redirects")
        ]
        return Report(
            took,
            tuple(hop for hop in hops if hop.touches(devices)),
            {name: Histogram(softirqs[name]) for name in SLICES if name in softirqs},
            tuple(sorted((p for p in polls if not devices or p.device in devices),
                         key=lambda each: each.device)),
            tuple(sorted((d for d in drops if not devices or d.device in devices),
                         key=lambda each: -each.packets)),
            tuple(sorted(redirects, key=lambda each: -each.packets)),
            sum(int(one) for one in self._bpf["untold"][0]),
            self._missed(),
            os.uname().release,
            self.headers,
            self.absent,
        )  # fmt: skip

    def _counts(self, table: str) -> Iterator[tuple[dict[str, Any], int]]:
        for key, values in self._bpf[table].items():
            fields = {name: getattr(key, name) for name, *_ in key._fields_}
            yield fields, sum(int(one) for one in values)

    def _missed(self) -> int:
        """Events that interrupted one of these programs on its processor: the kernel skips them."""
        told = [
            Path(f"/proc/self/fdinfo/{one.fd}").read_text(encoding="ascii")
            for one in self._bpf.funcs.values()
        ]
        return sum(int(count) for text in told for count in _MISSES.findall(text))

    def close(self) -> None:
        """Detach and let go."""
        self._bpf.cleanup()


def _text(device: Any) -> str:
    name = device["name"] if isinstance(device, dict) else device.name
    return bytes(name).partition(b"\0")[0].decode(errors="replace")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="millrace perf kernel-latency",
        description="latency of packets inside the kernel, between tracepoints, by device",
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="default 10; Ctrl-C ends it")
    parser.add_argument(
        "--device", action="append", default=[], metavar="NAME", help="only hops that touch it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not 0 < options.seconds <= MOST_SECONDS:
        parser.error(f"--seconds {options.seconds:g}: over 0, up to {MOST_SECONDS:g}")
    return options


_ENDING = (signal.SIGINT, signal.SIGTERM)


def _seen(seconds: float, devices: Sequence[str]) -> Report:
    trace = Trace()
    try:
        print(READY, file=sys.stderr, flush=True)
        signal.sigtimedwait(_ENDING, seconds)
        return trace.report(devices)
    finally:
        trace.close()


def main_command(argv: Sequence[str]) -> int:
    """0 measured; 1 failed; 2 nonsense; 3 absent here, and why."""
    options = _arguments(argv)
    if os.geteuid() != 0:
        print("millrace perf kernel-latency: needs root (BPF, tracefs)", file=sys.stderr)
        return FAILED
    # Held back until they are waited for: one that comes while BCC works ends the wait at once.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        report = _seen(options.seconds, options.device)
    except AbsentError as error:
        print(f"millrace perf kernel-latency: {error}", file=sys.stderr)
        return ABSENT
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    print(json.dumps(report.told(), indent=1) if options.json else report.text())
    return OK


if __name__ == "__main__":
    sys.exit(main_command(sys.argv[1:]))
