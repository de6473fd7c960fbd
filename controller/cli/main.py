"""The `millrace` command: a table of subcommands, each imported only when it is asked for.

Exit codes:
    0  done, and all is well
    1  it failed; the message names the thing, the cause and the next step
    2  the command line or a configuration file is wrong
    3  the node daemon cannot be reached
    4  it works, but degraded: something is pending, in error, or out of reach
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DEFAULT_CONFIG = "/etc/millrace/node.toml"
DEFAULT_CLUSTER = "/etc/millrace/cluster.toml"
DEFAULT_CONTROLLER = "/etc/millrace/controller.toml"

EXIT_CODES = """\
exit codes:
  0  done, and all is well
  1  it failed
  2  the command line or a configuration file is wrong
  3  the node daemon cannot be reached
  4  degraded: something is pending, in error, or out of reach
"""

Parser = argparse.ArgumentParser


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand. `target` is "module:function"; the function takes the parsed arguments."""

    name: str
    claim: str
    target: str
    arguments: Callable[[Parser], None]
    has_help: bool = True


def _config(parser: Parser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help=f"the node's file ({DEFAULT_CONFIG})",
    )


def _read(parser: Parser) -> None:
    _config(parser)
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket, if not by --config")
    parser.add_argument("--json", action="store_true", help="print the daemon's answer as JSON")


def _status(parser: Parser) -> None:
    _read(parser)
    parser.add_argument("--all", action="store_true", help="list objects that are done, too")


def _services(parser: Parser) -> None:
    _read(parser)
    parser.add_argument("--wide", action="store_true", help="show drops, ranges and reasons, too")


def _conntrack(parser: Parser) -> None:
    _read(parser)
    for name, text in (
        ("vip", "flows to this VIP"),
        ("client", "flows of this client"),
        ("backend", "flows to this backend"),
    ):
        parser.add_argument(f"--{name}", metavar="ADDRESS[:PORT]", help=text)
    parser.add_argument(
        "--state", metavar="STATE", action="append", default=[], dest="states",
        help="flows in this state (syn, established, udp, ...); several: in one of them",
    )  # fmt: skip
    parser.add_argument("--protocol", metavar="NAME", help="tcp, udp or sctp")
    parser.add_argument("--limit", metavar="N", type=int, default=100, help="list N (%(default)s)")
    parser.add_argument("--count", action="store_true", help="only count them, by state")
    parser.add_argument("--flush", action="store_true", help="end them (with --yes)")
    parser.add_argument("--yes", action="store_true", help="do not only say what --flush would end")


def _trace(parser: Parser) -> None:
    _read(parser)
    parser.add_argument("protocol", metavar="PROTOCOL", help="tcp, udp or sctp")
    parser.add_argument("client", metavar="CLIENT[:PORT]", help="port 40000 if none is given")
    parser.add_argument("vip", metavar="VIP:PORT", help="an IPv6 address in brackets")
    parser.add_argument("--inside", action="store_true", help="the client is behind OVN")


def _rebalance(parser: Parser) -> None:
    _read(parser)
    orders = parser.add_mutually_exclusive_group()
    orders.add_argument("--apply", action="store_true", help="pin queues as proposed")
    orders.add_argument("--undo", action="store_true", help="take our pins back")


def _dump(parser: Parser) -> None:
    _config(parser)
    parser.add_argument("port", metavar="PORT", help="a port of OVS, or a logical port of OVN's")
    into = parser.add_mutually_exclusive_group(required=True)
    into.add_argument("-w", dest="write", metavar="FILE", help="write packets to this pcap file")
    into.add_argument("--to", metavar="PORT", help="copy them to this port of the same bridge")
    parser.add_argument("-c", dest="count", metavar="N", type=int, help="end after N packets")
    parser.add_argument("--seconds", metavar="S", type=float, help="end after S seconds")


def _apply(parser: Parser) -> None:
    _read(parser)
    # The run directory cannot change while the daemon runs, so the new file finds it as well.
    parser.set_defaults(config=None)
    parser.add_argument(
        "file", metavar="FILE", nargs="?", help="the file to take over (default: --config's)"
    )


def _up(parser: Parser) -> None:
    _config(parser)
    parser.add_argument("--cluster", metavar="FILE", help="run a cluster controller with this file")
    parser.add_argument("--netns", metavar="NAME", help="the network namespace of the node")


def _doctor(parser: Parser) -> None:
    _config(parser)
    parser.add_argument("--netns", metavar="NAME", help="the network namespace of the node")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _preflight(parser: Parser) -> None:
    _config(parser)
    parser.add_argument("encapsulation", choices=["vxlan"], help="what tunnels are to become")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def _kubernetes(parser: Parser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", default=DEFAULT_CONTROLLER,
        help=f"the Kubernetes controller's file ({DEFAULT_CONTROLLER})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def _controller(parser: Parser) -> None:
    orders = parser.add_subparsers(dest="order", metavar="ORDER", required=True)
    for name, claim in (
        ("run", "run it in the foreground"),
        ("diff", "print what it would change in OVN; change nothing"),
        ("status", "what the running one says of itself"),
    ):
        _kubernetes(orders.add_parser(name, help=claim, description=claim))


def _explain(parser: Parser) -> None:
    _kubernetes(parser)
    parser.add_argument(
        "row", metavar="ROW", nargs="+", help="a row of OVN's: TABLE NAME, or its name alone"
    )


def _plan(parser: Parser) -> None:
    parser.add_argument("--config", metavar="FILE", help=f"the node's file ({DEFAULT_CONFIG})")
    parser.add_argument("--topology", metavar="FILE", help="a recorded machine, not this one")
    parser.add_argument(
        "--record", metavar="FILE", help="write this machine's topology (-: stdout)"
    )
    parser.add_argument("--explain", action="store_true", help="show each value's rule and source")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def _nics(parser: Parser) -> None:
    parser.add_argument(
        "action", nargs="?", choices=["bind", "release"], help="what to do (default: list them)"
    )
    parser.add_argument("nic", nargs="*", help="release: which, by name or PCI address (all)")
    parser.add_argument("--config", metavar="FILE", help=f"the node's file ({DEFAULT_CONFIG})")
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.add_argument(
        "--recorded", action="store_true", help="bind only what was bound before (at boot)"
    )


def _restart_ovs(parser: Parser) -> None:
    _read(parser)
    parser.add_argument("--force", action="store_true", help="also if nothing waits for a restart")
    parser.add_argument(
        "--run", action="store_true", help="OVS of a systemd unit: restart it, not only say how"
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=120.0, help="wait so long (%(default)g s)"
    )


def _central(parser: Parser) -> None:
    parser.add_argument(
        "--cluster", metavar="FILE", default=DEFAULT_CLUSTER, help="its file (%(default)s)"
    )
    parser.add_argument("--socket", metavar="PATH", help="answer `status` there (default: nowhere)")


def _down(parser: Parser) -> None:
    _config(parser)
    parser.add_argument(
        "--keep",
        action="store_true",
        help="end its daemons only; all that they keep stays for the next `up`",
    )


def _perf(parser: Parser) -> None:
    parser.add_argument(
        "-h", "--help", dest="benchmark", action="store_const", const="help", help="list them"
    )
    parser.add_argument("benchmark", nargs="?", default="help", help="run, list, compare, ...")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="the benchmark's own arguments")


def _cni_remove(parser: Parser) -> None:
    for name, default, text in (
        ("--bin-dir", "/opt/cni/bin", "where the runtime looks for plugins"),
        ("--net-dir", "/etc/cni/net.d", "where it looks for networks"),
        ("--name", "10-millrace.conflist", "the conflist's name there; the first by name counts"),
    ):
        parser.add_argument(name, metavar="PATH", default=default, help=f"{text} (%(default)s)")


def _cni_install(parser: Parser) -> None:
    _cni_remove(parser)
    parser.add_argument("conflist", metavar="CONFLIST", help="the network, as in deploy/")
    parser.add_argument(
        "--python", metavar="PATH", default="/usr/bin/python3", help="of the host (%(default)s)"
    )
    parser.add_argument(
        "--wait", metavar="S", type=float, default=0.0, help="for the daemon, before the conflist"
    )


COMMANDS = (
    Command("up", "start an embedded node: OVS, OVN, the daemon", "controller.cli.lab:up", _up),
    Command("down", "stop an embedded node, undo its changes", "controller.cli.lab:down", _down),
    Command(
        "status", "what the node is, and what it is not yet", "controller.cli.read:status", _status
    ),
    Command("apply", "take over a changed configuration file", "controller.cli.read:apply", _apply),
    Command(
        "services", "services, and what serves each", "controller.cli.sight:services", _services
    ),
    Command("conntrack", "flows through services", "controller.cli.sight:conntrack", _conntrack),
    Command(
        "trace", "what the fast path would do with a packet", "controller.cli.sight:trace", _trace
    ),
    Command(
        "restart-ovs",
        "restart ovs-vswitchd in order, and measure it",
        "controller.cli.restart:restart_ovs",
        _restart_ovs,
    ),
    Command("plan", "what OVS-DPDK should be told here", "controller.cli.plan:plan", _plan),
    Command("nics", "this machine's NICs; bind, release", "controller.cli.nics:nics", _nics),
    Command("ports", "ports of workloads on this node", "controller.cli.read:ports", _read),
    Command("dump", "packets of a port, into a file", "controller.cli.dump:dump", _dump),
    Command(
        "rebalance",
        "what PMD threads carry, and what could move",
        "controller.cli.balance:rebalance",
        _rebalance,
    ),
    Command("doctor", "check the machine and the node", "controller.cli.check:doctor", _doctor),
    Command(
        "preflight",
        "whether OVN fits into another encapsulation",
        "controller.cli.preflight:preflight",
        _preflight,
    ),
    Command("node", "run the node daemon (for an init system)", "controller.cli.run:node", _config),
    Command(
        "central", "run the cluster controller (likewise)", "controller.cli.run:central", _central
    ),
    Command(
        "cni-install",
        "put the CNI plugin and its conflist in place",
        "controller.cli.cni:cni_install",
        _cni_install,
    ),
    Command(
        "controller",
        "Kubernetes to OVN: run, diff, status",
        "controller.cli.kubernetes:controller",
        _controller,
    ),
    Command(
        "explain", "objects behind a row of OVN", "controller.cli.kubernetes:explain", _explain
    ),
    Command("cni-remove", "take both away again", "controller.cli.cni:cni_remove", _cni_remove),
    Command("perf", "run a benchmark", "controller.cli.bench:perf", _perf, has_help=False),
)


def parser() -> Parser:
    """The command line."""
    top = Parser(
        prog="millrace",
        description="The node data plane beside the kernel's.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    below = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = below.add_parser(
            command.name,
            help=command.claim,
            description=command.claim,
            add_help=command.has_help,
        )
        command.arguments(sub)
        sub.set_defaults(target=command.target)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit code."""
    arguments = parser().parse_args(argv)
    module, _, function = arguments.target.partition(":")
    # Here and not above: `--help` and bad usage need none of it, and answer at once.
    from controller.cli import failures

    return failures.guarded(
        lambda: int(getattr(importlib.import_module(module), function)(arguments))
    )


if __name__ == "__main__":
    sys.exit(main())
