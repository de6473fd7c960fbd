"""Laws of a Subnet that workloads and external addresses share, over random histories."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from controller.kinds.nat import EIPS, Eip
from controller.kinds.subnet import SUBNETS, Subnet
from controller.kube.resources import Key
from controller.network import external, nat, reserved
from controller.network.engine import Engine
from controller.network.external import GIVEN
from controller.network.facts import LEASES, PODS, NetPod
from controller.network.settings import NetSettings

SHARED = "shared"
ADDRESS = "ovn.kubernetes.io/"
SETTINGS = NetSettings(external_subnet=SHARED, default_cidr="", join_cidr="")
UNITS = (*external.UNITS, *nat.UNITS, *reserved.UNITS)
WISH = st.sampled_from(["", *(f"10.5.204.{n}" for n in range(1, 15))])
STEP = st.one_of(
    st.tuples(st.just("eip"), st.integers(0, 5), WISH),
    st.tuples(st.just("pod"), st.integers(0, 9), WISH),
    st.tuples(st.just("no eip"), st.integers(0, 5), st.just("")),
    st.tuples(st.just("no pod"), st.integers(0, 9), st.just("")),
    st.tuples(st.just("told"), st.integers(0, 5), st.just("")),
)
BATCHES = st.lists(st.lists(STEP, min_size=1, max_size=6), max_size=12)


@dataclass
class History:
    """An engine, and what of its answers came back as objects' statuses."""

    engine: Engine = field(default_factory=lambda: Engine(SETTINGS, UNITS))
    clock: int = 0

    def start(self) -> History:
        subnet = Subnet(SHARED, default=True, cidr="10.5.204.0/28", gateway="10.5.204.1")
        self.engine.put(((SUBNETS, SHARED, subnet),))
        self.engine.start()
        return self

    def take(self, steps: Iterable[tuple[str, int, str]]) -> None:
        store = self.engine.book.store
        for what, number, wish in steps:
            name, pod = f"e{number}", Key("ns", f"p{number}")
            there = store.get(EIPS, name)
            self.clock += 1
            if what == "eip" and there is None:
                made = Eip(name, f"{self.clock:09}", wished=(wish,) if wish else ())
                self.engine.put(((EIPS, name, made),))
            elif what == "told" and there is not None:
                mine = tuple(self.external().get(name, ()))
                self.engine.put(((EIPS, name, replace(there, held=mine)),))
            elif what == "no eip":
                self.engine.put(((EIPS, name, None),))
            elif what == "pod" and store.get(PODS, pod) is None:
                wished = {f"{ADDRESS}ip_address": wish} if wish else {}
                self.engine.put(((PODS, pod, NetPod(*pod, uid=str(self.clock),
                                                    annotations=wished)),))  # fmt: skip
            elif what == "no pod":
                self.engine.put(((PODS, pod, None),))
        self.engine.update()

    def external(self) -> dict[str, list[str]]:
        given = self.engine.book.derive(GIVEN, SHARED)[0]
        return {who[1]: [*map(str, one.addresses.values())] for who, one in given.items()}

    def workloads(self) -> list[str]:
        store = self.engine.book.store
        leases = (store.get(LEASES, key) for key in store.all(LEASES))
        return [str(address) for lease in leases if lease for address in lease.addresses]


@given(BATCHES)
def test_an_address_is_an_external_ones_or_a_workloads(
    batches: list[list[tuple[str, int, str]]],
) -> None:
    history = History().start()
    for batch in batches:
        before = history.external()
        store = history.engine.book.store
        eips = {name: eip for name in before if (eip := store.get(EIPS, name)) is not None}
        said = {name for name, eip in eips.items() if eip.held and before[name] == [*eip.held]}
        history.take(batch)
        outside = history.external()
        mine = [address for one in outside.values() for address in one]
        everybody = mine + history.workloads()
        assert len(everybody) == len(set(everybody))
        gone = {f"e{number}" for what, number, _ in batch if what == "no eip"}
        for name in said - gone:
            # What an object says that it has it keeps, whoever comes.
            assert outside[name] == before[name]
