"""A poll of vswitchd: what is asked, what is not asked again, and when it ends early."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controller.node_metrics import PAUSE_MOST_S, REFRESH_S, pause_after
from dataplane.drivers.ovsscrape import COMMANDS, OvsFigures, OvsPoll
from dataplane.drivers.pmdtasks import Switches, switches_of_pmds
from dataplane.drivers.unixctl import UnixctlClient


class Answering:
    """A unixctl socket whose answers the test writes; it keeps what was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[str] = []
        self.answers: dict[str, str] = {}
        self.refusals: dict[str, str] = {}
        self.silent: set[str] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen(8)
            thread = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            thread.start()
            yield
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)

    def _serve(self, listener: socket.socket) -> None:
        held: list[socket.socket] = []
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                for one in held:
                    one.close()
                return
            data = connection.recv(65536)
            if not data:
                connection.close()
                continue
            command = str(json.loads(data)["method"])
            self.asked.append(command)
            if command in self.silent:
                held.append(connection)
                continue
            reply = {
                "id": 0,
                "error": self.refusals.get(command),
                "result": self.answers.get(command, ""),
            }
            connection.sendall(json.dumps(reply).encode())
            connection.close()


def test_a_command_that_is_not_known_is_asked_once(tmp_path: Path) -> None:
    server = Answering(tmp_path / "ctl")
    gone = "dpif-netdev/pmd-stats-show"
    server.refusals[gone] = f'"{gone}" is not a valid command (use "list-commands")'
    server.refusals["dpctl/ct-get-nconns"] = "no datapath"
    server.answers["dpctl/ct-get-maxconns"] = "7\n"
    poll = OvsPoll()
    with server.running():
        client = UnixctlClient(str(server.path))
        first, second = poll.take(client), poll.take(client)
    assert server.asked == [*COMMANDS, *(word for word in COMMANDS if word != gone)]
    assert (first.tracked, first.tracked_most) == (None, 7)
    assert gone not in first.seconds
    assert second.failures == {"dpctl/ct-get-nconns": 2}


def test_a_command_without_an_answer_in_time_ends_the_poll(tmp_path: Path) -> None:
    server = Answering(tmp_path / "ctl")
    server.silent.add(COMMANDS[2])
    with server.running():
        found = OvsPoll().take(UnixctlClient(str(server.path), timeout=0.3))
    assert server.asked == list(COMMANDS[:3])
    assert found.failures == {COMMANDS[2]: 1}
    assert found.poll_seconds >= 0.3


def test_nobody_there_asks_nothing(tmp_path: Path) -> None:
    found = OvsPoll().take(UnixctlClient(str(tmp_path / "nothing")))
    assert found == OvsFigures()


def test_a_slow_vswitchd_is_asked_more_seldom() -> None:
    assert pause_after(None) == REFRESH_S
    assert pause_after(OvsFigures(seconds={"a": 0.1, "b": 0.2})) == REFRESH_S
    assert pause_after(OvsFigures(seconds={"a": 1, "b": 1})) == 40
    assert pause_after(OvsFigures(seconds={"a": 60})) == PAUSE_MOST_S


def test_context_switches_of_pmd_threads(tmp_path: Path) -> None:
    for number, name in (("7", "ovs-vswitchd"), ("8", "pmd-c01/id:8"), ("9", "pmd-c12/id:9")):
        task = tmp_path / "7" / "task" / number
        task.mkdir(parents=True)
        (task / "comm").write_text(f"{name}\n")
        (task / "status").write_text(
            f"Name:\t{name}\nvoluntary_ctxt_switches:\t2\nnonvoluntary_ctxt_switches:\t{number}\n"
        )
    (tmp_path / "7" / "task" / "10").mkdir()  # ended in between
    assert switches_of_pmds(7, tmp_path) == {1: Switches(2, 8), 12: Switches(2, 9)}
    assert switches_of_pmds(8, tmp_path) == {}


def test_turns_of_polling_threads_are_no_theft() -> None:
    before = Switches(0, 1_000, 900)
    assert Switches(0, 2_000, 900).stolen_since(before) == 1_000
    assert Switches(0, 11_000, 10_900).stolen_since(before) == 0
    # One turn in a hundred may be counted late.
    assert Switches(0, 11_100, 10_900).stolen_since(before) == 0
    assert Switches(0, 11_107, 10_900).stolen_since(before) == 7
    # svc0 is another one since.
    assert Switches(0, 11_000, 100).stolen_since(before) == 0
