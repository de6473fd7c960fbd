"""Two ends that somebody else made, as KubeVirt's guests are: iperf3 and ping by a command."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dataplane.drivers import processes
from perf.harness.generator import HarnessError
from perf.harness.generators import Iperf
from perf.harness.labs import Bench, Sample
from perf.harness.scenario import Scenario

LAB = "ends"
PORT = 5201
_ECHOES = 100
_REPLY_S = 60.0


@dataclass(frozen=True, slots=True)
class EndsBench:
    """The sender's command prefix (`ssh root@vm-a`), and where the other end's iperf3 listens."""

    client: tuple[str, ...]
    address: str

    def sample(self, scenario: Scenario, number: int, seconds: float) -> Sample:
        """Streams, datagrams, or echoes; iperf3 knows whole seconds only.

        Raises:
            HarnessError: the command or iperf3 says why not.
        """
        del number
        kind, _, streams = scenario.way.partition("/")
        if kind == "echo":
            return Sample({"rtt": self._echoes()})
        whole = max(round(seconds), 1)
        if kind == "tcp":
            return self._tcp(int(streams), whole)
        traffic = scenario.traffic
        counts = Iperf(self._run, self.address, PORT).start(traffic, whole)
        lost = {"between the sockets": counts.lost} if counts.lost else {}
        return Sample({"krps": counts.pps / 1e3}, {"loss_share": counts.loss_ratio}, lost)

    def configuration(self, scenario: Scenario) -> dict[str, Any]:
        """The ends, and the kernel of the one that can be asked."""
        del scenario
        client = shlex.join(self.client)
        return {"client": client, "address": self.address, "client_kernel": self.kernel()}

    def kernel(self) -> str:
        """Of the sender.

        Raises:
            ProcessError: its command fails.
        """
        return self._run("uname", "-a").strip()

    def _tcp(self, streams: int, seconds: int) -> Sample:
        words = ["-c", self.address, "-p", str(PORT), "-P", str(streams), "-t", str(seconds), "-J"]
        said = self._run("iperf3", *words, check=False, timeout_s=seconds + _REPLY_S)
        try:
            told = json.loads(said)
            received = float(told["end"]["sum_received"]["bits_per_second"]) / 1e9
        except (ValueError, KeyError, TypeError) as error:
            msg = f"iperf3 there: {_reason(said)}"
            raise HarnessError(msg) from error
        again = float(told["end"]["sum_sent"].get("retransmits", 0))
        return Sample({"gbits": received}, {"segments_sent_again": again})

    def _echoes(self) -> float:
        words = ["-n", "-q", "-A", "-c", str(_ECHOES), self.address]
        said = self._run("ping", *words, check=False, timeout_s=_ECHOES + _REPLY_S)
        for line in said.splitlines():
            if line.startswith(("rtt", "round-trip")):
                return float(line.split("=")[1].split("/")[1])
        msg = f"ping {self.address} there: {said.strip()[-300:] or 'says nothing'}"
        raise HarnessError(msg)

    def _run(self, *argv: str, check: bool = True, timeout_s: float = _REPLY_S) -> str:
        # The user's own environment: ssh and kubectl have their keys by it.
        return processes.run(
            [*self.client, *argv], check=check, timeout_s=timeout_s, env=dict(os.environ)
        )


def _reason(said: str) -> str:
    try:
        return str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        return said.strip()[:300] or "says nothing; is it installed there?"


@contextmanager
def built(client: str, address: str) -> Iterator[Bench]:
    """Nothing is built; that the command works is seen at once.

    Raises:
        ProcessError: the command fails.
    """
    made = EndsBench(tuple(shlex.split(client)), address)
    made.kernel()
    yield made
