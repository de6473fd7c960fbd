"""The Kubernetes controller: objects of the API in, northbound rows of OVN out.

A composition root. Watching (`kubesources`) and writing back (`kubewrites`) are asynchronous; what
is between, `network.engine`, is pure; rows are written by `ovn.keyed`. Of several controllers the
holder of a Lease works. It begins anew each time that it becomes the holder: from what the API and
the northbound database say, never from what it remembers, so that taking over is as starting.

Nothing is written before everything has been listed once, and before we hold the database's lock:
whoever led before us cannot write any more then, and all that he gave out can be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket as sockets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from controller.config_kubernetes import KubernetesConfig, load_kubernetes
from controller.kube import kubeconfig
from controller.kube.auth import Access, in_cluster
from controller.kube.events import Recorder
from controller.kube.http import Client
from controller.kube.lease import Election
from controller.kube.resources import Key
from controller.kubegateways import Gateways
from controller.kubesight import Sight
from controller.kubesources import Sources
from controller.kubewrites import WriteBack
from controller.network.engine import Engine
from controller.network.gateways import TEMPLATE
from controller.network.heldports import held_port
from controller.network.merging import Changes
from controller.network.reach import ALL_AND_MEMBERS, Hold, hold_of
from controller.network.registry import WATCHED
from controller.network.rows import Row, RowKey
from controller.network.units import ObjectRef
from controller.ovn.keyed import Writer
from controller.server import serve
from controller.translate.ovn import Problem
from dataplane.drivers.idl import Tls
from dataplane.ports import DataplaneError

log = logging.getLogger(__name__)

SOCKET_MODE = 0o600
INLINE = 200
"""So many keys are computed in the event loop; more, in a thread, so that leases are renewed."""
RETRY_S = 1.0
GATHER_S, GATHER_EACH_S, GATHER_MOST_S = 0.004, 0.001, 0.2
"""Between two batches of changes: at least, for each change of the last one, and at most [s].

In a flood of 1,000 a second hundreds are computed and written at once, which costs half as much for
each: they are members of the same groups.
"""
COLLECT = (20_000, 20, 20)
"""Thresholds of the garbage collector: what the book forgets is not part of a cycle any more, and
looking through all that it remembers takes half a second."""


@dataclass(slots=True)
class Counts:
    """What happened since the start; times are monotonic [s]."""

    batches: int = 0
    facts: int = 0
    rows: int = 0
    started_at: float = 0.0
    listed_at: float = 0.0
    computed_at: float = 0.0
    settled_at: float = 0.0


class Controller:
    """One running controller; `run` it."""

    def __init__(self, config: KubernetesConfig, client: Client) -> None:
        self.config = config
        self.counts = Counts()
        self.sources = Sources(client, WATCHED)
        tls = Tls(*config.tls) if config.tls is not None else None
        self.writer = Writer(config.nb, tls, self._rows_failed)
        self.engine: Engine | None = None
        self.gateways = Gateways()
        identity = config.identity or f"{sockets.gethostname()}-{os.urandom(4).hex()}"
        space = config.namespace or client.access.namespace
        self.election = Election(
            client, Key(space, config.lease), identity, changed=self._lease_turned
        )
        recorder = Recorder(client, identity)
        self.back = WriteBack(client, self.sources, recorder, self.may_write)
        self.sight = Sight(self)
        self._recorder = recorder
        self._failed: dict[str, str] = {}
        self._refused: set[RowKey] = set()
        self._blamed: dict[RowKey, frozenset[ObjectRef]] = {}
        self._turned = asyncio.Event()
        self._led_since = float("inf")
        self.computing = asyncio.Lock()

    def may_write(self) -> bool:
        """Whether nobody else leads, by both signs: the Lease and the database's lock."""
        return self.election.leads and self.writer.connected and self.writer.active

    def _lease_turned(self, leads: bool) -> None:
        if leads:
            self._led_since = time.monotonic()
        self._turned.set()

    async def run(self) -> None:
        """Work until cancelled."""
        self.counts.started_at = time.monotonic()
        gc.set_threshold(*COLLECT)
        self.writer.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self.writer.run())
                tasks.create_task(self.back.run())
                tasks.create_task(self._recorder.run())
                tasks.create_task(self.election.run())
                tasks.create_task(self._lead())
        finally:
            await self.writer.stop()

    async def _watch(self) -> None:
        """Watch all. Who leads at once lists after that, and so need not list again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._turned.wait()
        await self.sources.run()

    async def _lead(self) -> None:
        """Work while we lead, and only then."""
        await self.sources.synced()
        self.counts.listed_at = time.monotonic()
        log.info("all_listed seconds=%.2f", self.counts.listed_at - self.counts.started_at)
        while True:
            self._turned.clear()
            if not self.election.leads:
                # Leadership ends by the clock; this looks at it now and then, too.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._turned.wait()
                continue
            working = asyncio.ensure_future(self._work())
            watching = asyncio.ensure_future(self._lost())
            try:
                await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    working.result()
            finally:
                for task in (working, watching):
                    task.cancel()
                await asyncio.gather(working, watching, return_exceptions=True)
                self._stand_back()

    async def _lost(self) -> None:
        while self.election.leads:
            self._turned.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._turned.wait()

    def _stand_back(self) -> None:
        self.back.pause()
        self.back.forget()
        self._refused.clear()
        self._blamed.clear()
        self.writer.lead(False)
        self.writer.begin(ALL_AND_MEMBERS)
        self.writer.forget()
        self.engine = None
        self.gateways.stop()

    async def _work(self) -> None:
        """Begin anew, then follow what changes."""
        self.writer.lead(True)
        await self.writer.gain()
        # Whoever led before us wrote until now: all of that has to be seen.
        await self.sources.renewed(self._led_since)
        engine = await self.compute()
        self._want(engine, dict(engine.book.rows))
        await self.writer.settled()
        # After the routers that gateways lead to are there.
        self._tell_gateways(engine)
        self.counts.settled_at = time.monotonic()
        log.info("settled seconds=%.2f", self.counts.settled_at - self.counts.started_at)
        # Rows first: only now objects are told, which comes back as changes of theirs.
        self.back.resume()
        gc.collect()
        # What is there now lives long: looking through it again and again costs half a second.
        gc.freeze()
        while True:
            await self.sources.changed.wait()
            await self._follow(engine)

    async def compute(self) -> Engine:
        """A new engine that knows all that the API and the northbound database say now."""
        while True:
            try:
                ports = await self.writer.ports()
                break
            except DataplaneError as error:
                log.warning("not_begun error=%s", error)
                await asyncio.sleep(RETRY_S)
        engine = Engine(self.config.network)
        taken = self.sources.take_all()
        held = [one for one in map(held_port, ports) if one is not None]
        async with self.computing:
            engine.put(((TEMPLATE, "", self.config.gateways),))
            engine.put(taken.facts)
            changes = await asyncio.to_thread(engine.start, held, self.sources.lost)
        self.engine = engine
        self.counts.computed_at = time.monotonic()
        self._tell(changes, taken.problems)
        self._tell_refused()
        for ref in sorted(set(self.sources.lost.values()), key=str):
            log.error("object_unreadable object=%s what may be its own stays until it is read", ref)
        log.info("computed rows=%d failed=%d", len(changes.rows), len(engine.failed()))
        return engine

    async def _follow(self, engine: Engine) -> None:
        """One batch of changes."""
        taken = self.sources.take()
        engine.put(taken.facts)
        engine.end(taken.ending)
        if engine.pending > INLINE:
            async with self.computing:
                changes = await asyncio.to_thread(engine.update)
        else:
            changes = engine.update()
        self.counts.batches += 1
        self.counts.facts += len(taken.facts)
        self.counts.rows += len(changes.rows)
        self._want(engine, changes.rows)
        self._tell(changes, taken.problems)
        self._tell_refused()
        self.back.touched(taken.touched)
        self._tell_gateways(engine)
        # In a flood, more at once; and whoever else waits for the loop has a turn, the Lease first.
        await asyncio.sleep(min(GATHER_MOST_S, GATHER_S + GATHER_EACH_S * len(taken.touched)))

    def _want(self, engine: Engine, rows: Mapping[RowKey, Row | None]) -> None:
        """Rows that nobody wants may go, unless somebody who may want them cannot say so."""
        self.writer.want(rows)
        self.writer.begin(self.hold(engine))

    def hold(self, engine: Engine) -> Hold:
        """What stays although nobody wants it."""
        return hold_of(kind for kind, _ in self.sources.lost) | engine.hold()

    def _tell_gateways(self, engine: Engine) -> None:
        # What leads to a Vpc or leaves for a Subnet that cannot be read is there, and stays.
        if self.hold(engine).tables is not None:
            self.gateways.tell(engine.gateways())

    def _tell(self, changes: Changes, problems: dict[ObjectRef, tuple[Problem, ...]]) -> None:
        failed = self.engine.failed() if self.engine is not None else {}
        for who in failed.keys() - self._failed.keys():
            log.error("failed by=%s error=%s", who, failed[who])
        self._failed = failed
        self.back.want(changes.writes)
        self.back.problems("read", problems)
        self.back.problems("units", changes.problems)
        if self.engine is not None:
            self.back.problems("facts", self.engine.odd())

    def _rows_failed(self, keys: frozenset[RowKey]) -> None:
        self._refused |= keys
        self._tell_refused()

    def _tell_refused(self) -> None:
        """Rows that OVN refuses are problems of the objects that want them."""
        if self.engine is None or self.computing.locked():
            return  # who computes calls this again
        keys, self._refused = self._refused, set()
        for key in keys:
            failure = self.writer.failures.get(key)
            found: dict[ObjectRef, tuple[Problem, ...]] = {}
            # Who was told may want the row no more, and is told so all the same.
            found |= dict.fromkeys(self._blamed.pop(key, ()), ())
            if failure is not None:
                sayers = frozenset(ref for _, ref in self.engine.book.sayers(key))
                problem = Problem(str(key), failure.reason, "change the object")
                found |= dict.fromkeys(sayers, (problem,))
                self._blamed[key] = sayers
            self.back.problems(f"row {key}", found)


def access(config: KubernetesConfig) -> Access:
    """Where the API is, and who we are to it.

    Raises:
        ConfigError: neither a kubeconfig nor a service account says so.
    """
    return kubeconfig.load([Path(config.kubeconfig)]) if config.kubeconfig else in_cluster()


@asynccontextmanager
async def listening(controller: Controller) -> AsyncIterator[None]:
    """Answer on the socket until the block ends."""
    path = Path(controller.config.socket)
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers = {"status": controller.sight.status, "explain": controller.sight.explain}
    async with await serve(path, SOCKET_MODE, handlers, {0, os.geteuid()}):
        yield


async def run(config: KubernetesConfig, stop: Callable[[asyncio.Event], None]) -> None:
    """Run until `stop`'s event is set."""
    ended = asyncio.Event()
    stop(ended)
    async with Client(access(config)) as client:
        controller = Controller(config, client)
        async with listening(controller):
            working = asyncio.ensure_future(controller.run())
            stopping = asyncio.ensure_future(ended.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
            working.cancel()
            stopping.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)
    log.info("controller_stopped")


def main(path: Path) -> int:
    """Run the controller in the foreground; the exit code.

    Raises:
        ConfigProblems: the file is wrong.
    """

    def on_signals(ended: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)

    asyncio.run(run(load_kubernetes(path), on_signals))
    return 0
