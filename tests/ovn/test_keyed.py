"""The writer on a real northbound database: by key, in few transactions, and nobody else's rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from controller.network.reach import ALL_AND_MEMBERS, EVERYTHING, NOTHING, RULES, Hold
from controller.network.rows import Row, RowKey, Value, pairs
from controller.ovn import keyed
from controller.ovn.keyed import Writer
from controller.ovn.turns import LOCK
from tests.labs.ovnsandbox import PATIENCE_S, OvnSandbox, northbound

SWITCH = RowKey("Logical_Switch", "s1")
ROUTER = RowKey("Logical_Router", "vpc")


@pytest.fixture
def nb() -> Iterator[OvnSandbox]:
    """An empty northbound database."""
    with northbound() as box:
        yield box


@asynccontextmanager
async def writing(
    remote: str, rows: dict[RowKey, Row], hold: Hold = NOTHING
) -> AsyncIterator[Writer]:
    """A writer that leads and has written these rows."""
    writer = Writer(remote)
    writer.start()
    working = asyncio.create_task(writer.run())
    try:
        writer.want(dict(rows))
        writer.begin(hold)
        writer.lead(True)
        await settle(writer)
        yield writer
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await writer.stop()


async def settle(writer: Writer) -> None:
    await asyncio.wait_for(writer.settled(), PATIENCE_S)


async def until(what: str, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # what is waited for is in another process
            await asyncio.sleep(0.02)
    assert condition(), what


def port(name: str, switch: str = "s1", **more: str) -> tuple[RowKey, Row]:
    row = Row(
        {
            "name": name,
            "addresses": frozenset({f"02:00:00:00:00:01 {name}"}),
            "external_ids": pairs(more),
        },
        parent=(RowKey("Logical_Switch", switch), "ports"),
    )
    return RowKey("Logical_Switch_Port", name), row


def switch(name: str = "s1", **config: str) -> tuple[RowKey, Row]:
    return RowKey("Logical_Switch", name), Row({"name": name, "other_config": pairs(config)})


def topology(ports: int = 3) -> dict[RowKey, Row]:
    """A switch, a router between which ports are, a port group with an ACL, an address set."""
    rows = dict([switch(), *(port(f"p{number}") for number in range(ports))])
    rows[ROUTER] = Row({"name": "vpc"})
    rows[RowKey("Logical_Router_Port", "vpc-s1")] = Row(
        {"name": "vpc-s1", "mac": "02:00:00:00:01:00", "networks": frozenset({"10.0.0.1/16"})},
        parent=(ROUTER, "ports"),
    )
    group = RowKey("Port_Group", "pg")
    members = frozenset(key for key in rows if key.table == "Logical_Switch_Port")
    rows[group] = Row({"name": "pg"}, {"ports": members})
    rows[RowKey("ACL", "pg drop")] = Row(
        {"direction": "to-lport", "priority": 1000, "match": "ip4", "action": "drop"},
        parent=(group, "acls"),
    )
    addresses = frozenset(f"10.0.1.{number}" for number in range(30))
    rows[RowKey("Address_Set", "as")] = Row({"name": "as", "addresses": addresses})
    rows[RowKey("Meter", "m")] = Row({"name": "m", "unit": "pktps"})
    rows[RowKey("Meter_Band", "m")] = Row(
        {"action": "drop", "rate": 10, "burst_size": 0}, parent=(RowKey("Meter", "m"), "bands")
    )
    return rows


def listed(box: OvnSandbox, table: str, columns: str = "name") -> list[str]:
    text = box.nbctl("--bare", f"--columns={columns}", "list", table)
    return sorted(line for line in text.splitlines() if line)


def test_a_topology_is_made_in_one_transaction_and_gone_in_one(nb: OvnSandbox) -> None:
    async def story() -> None:
        rows = topology()
        async with writing(nb.nb, rows) as writer:
            assert writer.written.transactions == 1 and writer.written.inserts == len(rows)
            assert listed(nb, "Logical_Switch_Port") == ["p0", "p1", "p2"]
            assert len(nb.nbctl("--bare", "--columns=ports", "list", "Port_Group").split()) == 3
            assert "drop" in nb.nbctl("acl-list", "pg")
            assert "vpc-s1" in nb.nbctl("show", "vpc")
            assert nb.nbctl("meter-list").split()[0] == "m:"
            writer.want(dict.fromkeys(rows))
            await settle(writer)
            # Before the transaction's answer the notices were here: nothing is to be done twice.
            assert writer.written.transactions == 2
            for table in ("Logical_Switch", "Logical_Router", "Port_Group", "ACL", "Meter"):
                assert listed(nb, table, "_uuid") == []

    asyncio.run(story())


def test_what_is_there_already_is_not_written(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology(50)):
            pass
        async with writing(nb.nb, topology(50)) as again:
            assert again.written.rows == 0 and not again.failures
            assert await again.difference() == ([], {})

    asyncio.run(story())


def test_a_change_writes_only_what_differs(nb: OvnSandbox) -> None:
    async def story() -> None:
        rows = topology()
        async with writing(nb.nb, rows) as writer:
            before = writer.written.rows
            key, row = port("p1", pod="one", vendor="x")
            more = frozenset({*rows[RowKey("Address_Set", "as")].columns["addresses"], "10.9.9.9"})  # type: ignore[misc]  # a set
            grown = Row({"name": "as", "addresses": more})
            writer.want({key: row, RowKey("Address_Set", "as"): grown})
            await settle(writer)
            assert writer.written.rows - before == 2
            ids = nb.nbctl("get", "Logical_Switch_Port", "p1", "external_ids")
            assert "pod=one" in ids and "vendor=x" in ids
            assert "10.9.9.9" in nb.nbctl("get", "Address_Set", "as", "addresses")
            # A key of ours goes when it is not wanted any more; another's stays.
            nb.nbctl("set", "Logical_Switch_Port", "p1", "external_ids:theirs=1")
            key, row = port("p1", pod="two")
            writer.want({key: row})
            await settle(writer)
            ids = nb.nbctl("get", "Logical_Switch_Port", "p1", "external_ids")
            assert "pod=two" in ids and "vendor" not in ids.replace("millrace", "")
            assert 'theirs="1"' in ids

    asyncio.run(story())


def test_what_comes_into_one_rows_empty_column_is_seen_in_no_others(nb: OvnSandbox) -> None:
    async def story() -> None:
        names = ("s1", "s2", "s3")
        group = RowKey("Load_Balancer_Group", "mrk-g")
        rows = {group: Row({"name": "mrk-g"}), **dict(map(switch, names))}
        async with writing(nb.nb, rows) as writer:
            for turn, groups in enumerate((frozenset({group}), frozenset(), frozenset({group})), 1):
                for name in names[:2]:
                    key, row = switch(name)
                    writer.want({key: replace(row, refs={"load_balancer_group": groups})})
                await settle(writer)
                assert writer.written.updates == 2 * turn and not writer.failures
                assert await writer.difference() == ([], {})
                columns = listed(nb, "Logical_Switch", "load_balancer_group")
                assert len(columns) == 2 * bool(groups)

    asyncio.run(story())


def test_ports_move_between_switches(nb: OvnSandbox) -> None:
    async def story() -> None:
        rows = dict([switch("s1"), switch("s2"), port("p1", "s1")])
        async with writing(nb.nb, rows) as writer:
            writer.want(dict([port("p1", "s2")]))
            await settle(writer)
            assert nb.nbctl("lsp-list", "s1") == "" and "(p1)" in nb.nbctl("lsp-list", "s2")

    asyncio.run(story())


def test_a_row_waits_for_its_parent_and_a_group_for_its_members(nb: OvnSandbox) -> None:
    async def story() -> None:
        group = RowKey("Port_Group", "pg")
        members = frozenset({port("p1")[0], port("p2")[0]})
        rows = dict([port("p1"), (group, Row({"name": "pg"}, {"ports": members}))])
        async with writing(nb.nb, rows) as writer:
            assert listed(nb, "Logical_Switch_Port") == []
            assert listed(nb, "Port_Group") == ["pg"] and not writer.failures
            writer.want(dict([switch()]))
            await settle(writer)
            assert listed(nb, "Logical_Switch_Port") == ["p1"]
            writer.want(dict([port("p2")]))
            await settle(writer)
            assert len(nb.nbctl("--bare", "--columns=ports", "list", "Port_Group").split()) == 2

    asyncio.run(story())


def test_a_name_that_somebody_else_has_is_told_once_and_taken_when_it_is_free(
    nb: OvnSandbox,
) -> None:
    async def story() -> None:
        nb.nbctl("ls-add", "others", "--", "lsp-add", "others", "p1")
        told: list[frozenset[RowKey]] = []
        async with writing(nb.nb, {}) as writer:
            writer.changed = told.append
            writer.want(topology())
            key = RowKey("Logical_Switch_Port", "p1")
            await until("it is tried again", lambda: key in writer.failures
                        and writer.failures[key].attempts > 1)  # fmt: skip
            assert 'another row of the database has p1 as "name"' in writer.failures[key].reason
            assert told == [frozenset((key,))]
            nb.nbctl("ls-del", "others")
            await until("it is made", lambda: key not in writer.failures)
            assert listed(nb, "Logical_Switch_Port") == ["p0", "p1", "p2"]

    asyncio.run(story())


def test_a_bad_row_is_named_and_harms_nobody(nb: OvnSandbox) -> None:
    async def story() -> None:
        rows = topology(40)
        bad = RowKey("Logical_Switch_Port", "bad")
        rows[bad] = Row({"name": "bad", "tag": 5000}, parent=(SWITCH, "ports"))
        rows[RowKey("Address_Set", "old")] = Row({"name": "old", "colour": "red"})
        rows[RowKey("Address_Set", "typed")] = Row({"name": 7})
        async with writing(nb.nb, rows) as writer:
            await until("the bad row is named", lambda: bad in writer.failures)
            assert "5000" in writer.failures[bad].reason
            assert set(writer.failures) == {
                bad, RowKey("Address_Set", "old"), RowKey("Address_Set", "typed"),
            }  # fmt: skip
            assert "no column colour" in writer.failures[RowKey("Address_Set", "old")].reason
            assert len(listed(nb, "Logical_Switch_Port")) == 40
            assert "drop" in nb.nbctl("acl-list", "pg")
            # Mended, it is made at once, whatever the back-off.
            writer.want({bad: Row({"name": "bad", "tag": 50}, parent=(SWITCH, "ports"))})
            await until("it is made", lambda: "bad" in listed(nb, "Logical_Switch_Port"))
            await until("and forgiven", lambda: bad not in writer.failures)

    asyncio.run(story())


def test_a_bad_parent_holds_back_its_own_children_only(nb: OvnSandbox) -> None:
    async def story() -> None:
        bad = RowKey("Meter", "m")
        rows = topology(5)
        rows[bad] = Row({"name": "m", "unit": "bananas"})
        nb.nbctl("ls-add", "theirs", "--", "lsp-add", "theirs", "p3")
        async with writing(nb.nb, rows) as writer:
            await until("both are named", lambda: len(writer.failures) == 2)
            assert set(writer.failures) == {bad, RowKey("Logical_Switch_Port", "p3")}
            assert len(listed(nb, "Logical_Switch_Port")) == 5
            assert "(p3)" in nb.nbctl("lsp-list", "theirs")
            assert len(nb.nbctl("--bare", "--columns=ports", "list", "Port_Group").split()) == 4

    asyncio.run(story())


def test_rows_of_others_are_never_touched(nb: OvnSandbox) -> None:
    nb.nbctl("ls-add", "s1", "--", "set", "Logical_Switch", "s1", "external_ids:owner=millrace")
    nb.nbctl("lsp-add", "s1", "x", "--", "lb-add", "lb", "10.0.0.1:80", "10.0.0.2:80")
    nb.nbctl("create", "Address_Set", "name=theirs", "addresses=10.0.0.1")

    async def story() -> None:
        rows = {RowKey("Address_Set", "theirs"): Row({"name": "theirs"})}
        async with writing(nb.nb, rows) as writer:
            await until("the name is taken", lambda: len(writer.failures) == 1)
            assert "theirs" in next(iter(writer.failures.values())).reason

    before = nb.nbctl("show"), listed(nb, "Load_Balancer", "_uuid,vips")
    asyncio.run(story())
    assert (nb.nbctl("show"), listed(nb, "Load_Balancer", "_uuid,vips")) == before
    assert nb.nbctl("get", "Address_Set", "theirs", "addresses").strip() == '["10.0.0.1"]'


def test_drift_is_repaired(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology()) as writer:
            nb.nbctl("lsp-set-addresses", "p1", "unknown")
            await until("addresses are back", lambda: "p1" in nb.nbctl("lsp-get-addresses", "p1"))
            nb.nbctl("lsp-del", "p2", "--", "acl-del", "pg")
            await until("the port is back", lambda: "(p2)" in nb.nbctl("lsp-list", "s1"))
            await until("the ACL is back", lambda: "drop" in nb.nbctl("acl-list", "pg"))
            members = ("--bare", "--columns=ports", "list", "Port_Group")
            await until("it is a member again", lambda: len(nb.nbctl(*members).split()) == 3)
            nb.nbctl("remove", "Logical_Switch_Port", "p1", "external_ids", "owner")
            get = ("get", "Logical_Switch_Port", "p1", "external_ids")
            await until("it is marked again", lambda: "owner" in nb.nbctl(*get))
            nb.nbctl("--all", "destroy", "Logical_Switch")
            await until("all is back", lambda: len(listed(nb, "Logical_Switch_Port")) == 3)
            # Twins, as two writers at once would leave them.
            ids = ("external_ids:owner=millrace-kubernetes", "external_ids:millrace-key=s1")
            nb.nbctl("create", "Logical_Switch", "name=s1", *ids)
            await until("there is one again", lambda: len(listed(nb, "Logical_Switch")) == 1)
            assert nb.nbctl("lsp-list", "s1").count("\n") == 3 and not writer.failures

    asyncio.run(story())


def balancer(holder: RowKey) -> dict[RowKey, Row]:
    row = Row({"name": "lb", "vips": pairs({"192.0.2.1:80": "10.0.0.2:80"})})
    return {RowKey("Load_Balancer", "lb"): replace(row, parent=(holder, "load_balancer"))}


def test_a_balancer_of_a_router_is_written_once_and_goes_with_what_is_wanted(
    nb: OvnSandbox,
) -> None:
    async def story() -> None:
        rows = topology() | balancer(ROUTER)
        async with writing(nb.nb, rows) as writer:
            assert writer.written.transactions == 1
            assert "192.0.2.1:80" in nb.nbctl("lr-lb-list", "vpc")
            nb.nbctl("lr-lb-del", "vpc")
            await until("it is back", lambda: "192.0.2.1:80" in nb.nbctl("lr-lb-list", "vpc"))
            await settle(writer)
            assert await writer.difference() == ([], {})
            writer.want(dict.fromkeys(balancer(ROUTER)))
            await settle(writer)
            assert listed(nb, "Load_Balancer") == [] and listed(nb, "Logical_Router") == ["vpc"]

    asyncio.run(story())


def test_a_row_that_never_comes_to_be_as_wanted_is_left_alone_and_told(nb: OvnSandbox) -> None:
    async def story() -> None:
        # Nobody follows this column of a switch, so that the row's holder is never seen.
        lost = balancer(SWITCH)
        async with writing(nb.nb, topology() | lost) as writer:
            assert set(writer.failures) == set(lost)
            assert "keeps writing it" in next(iter(writer.failures.values())).reason
            # What is wanted besides is done nevertheless.
            writer.want(dict([port("p9")]))
            await until("p9", lambda: "p9" in listed(nb, "Logical_Switch_Port"))
            writer.want(dict.fromkeys(lost))
            await until("it is gone", lambda: listed(nb, "Load_Balancer") == [])
            await until("nothing is refused", lambda: not writer.failures)

    asyncio.run(story())


def test_stale_rows_go_only_when_everything_has_been_said(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology()):
            pass
        async with writing(nb.nb, dict([switch()]), hold=EVERYTHING) as writer:
            assert len(listed(nb, "Logical_Switch_Port")) == 3 and writer.written.rows == 0
            writer.begin()
            await settle(writer)
            assert listed(nb, "Logical_Switch_Port") == listed(nb, "Port_Group") == []
            assert listed(nb, "Logical_Switch") == ["s1"]

    asyncio.run(story())


def test_what_was_wanted_goes_even_while_nothing_else_may(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology()):
            pass
        async with writing(nb.nb, dict([switch(), port("p1")]), hold=EVERYTHING) as writer:
            writer.want({RowKey("Logical_Switch_Port", "p1"): None})
            await settle(writer)
            assert listed(nb, "Logical_Switch_Port") == ["p0", "p2"]
            writer.forget()
            writer.want(dict([switch("s2")]))
            await until("it goes on", lambda: listed(nb, "Logical_Switch") == ["s1", "s2"])
            assert listed(nb, "Logical_Switch_Port") == ["p0", "p2"]

    asyncio.run(story())


def test_two_writers_never_write_at_once(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology()) as first:
            second = Writer(nb.nb)
            second.start()
            working = asyncio.create_task(second.run())
            second.want(dict([switch("other")]))
            second.lead(True)
            await until("it is connected", lambda: second.connected)
            first.want(dict([port("p9")]))
            await until("the first writes", lambda: "p9" in listed(nb, "Logical_Switch_Port"))
            assert not second.active and second.written.rows == 0
            first.lead(False)
            await until("the second may", lambda: "other" in listed(nb, "Logical_Switch"))
            assert not first.active
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await second.stop()

    asyncio.run(story())


def test_a_restarted_database_gets_what_it_misses(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology()) as writer:
            nb.kill("nb")
            await until("it is gone", lambda: not writer.connected)
            writer.want(dict([port("p7")]))
            nb.start_database("nb")
            await until("the port is made", lambda: "p7" in listed(nb, "Logical_Switch_Port"))
            assert len(listed(nb, "Logical_Switch_Port")) == 4 and not writer.failures

    asyncio.run(story())


def test_rows_of_more_than_one_transaction_refer_to_each_other(nb: OvnSandbox) -> None:
    async def story() -> None:
        writer = Writer(nb.nb, batch=7)
        writer.start()
        working = asyncio.create_task(writer.run())
        rows = topology(60)
        writer.want(rows)
        writer.begin()
        writer.lead(True)
        await settle(writer)
        assert writer.written.transactions >= len(rows) // 9
        assert writer.written.inserts == len(rows) and not writer.failures
        assert len(nb.nbctl("--bare", "--columns=ports", "list", "Port_Group").split()) == 60
        assert (await writer.difference()) == ([], {})
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await writer.stop()

    asyncio.run(story())


def members(nb: OvnSandbox) -> tuple[int, set[str]]:
    """How many ports the group has, and what the address set has."""
    ports = nb.nbctl("--bare", "--columns=ports", "list", "Port_Group").split()
    return len(ports), set(nb.nbctl("--bare", "--columns=addresses", "list", "Address_Set").split())


def test_a_lock_that_nobody_gives_back_is_taken_and_its_holder_writes_no_more(
    nb: OvnSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "STEAL_AFTER_S", 0.2)

    async def story() -> None:
        async with writing(nb.nb, dict([switch()])) as first:
            second = Writer(nb.nb)
            second.start()
            working = asyncio.create_task(second.run())
            try:
                second.want(dict([switch("s2")]))
                second.lead(True)
                await asyncio.wait_for(second.gain(), PATIENCE_S)
                second.begin(EVERYTHING)
                await settle(second)
                assert listed(nb, "Logical_Switch") == ["s1", "s2"]
                first.want(dict([switch("s3")]))
                await until("the first sees it", lambda: not first.active)
                second.want(dict([switch("s4")]))
                await settle(second)
                assert listed(nb, "Logical_Switch") == ["s1", "s2", "s4"]
                # Given back, it is the first's again, who still waits for it.
                second.lead(False)
                await until("it goes on", lambda: "s3" in listed(nb, "Logical_Switch"))
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)
                await second.stop()

    asyncio.run(story())


def test_a_lock_that_was_lost_to_somebody_who_may_not_write_is_taken_back(
    nb: OvnSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyed, "STEAL_AFTER_S", 0.2)

    async def story() -> None:
        async with writing(nb.nb, dict([switch()])) as writer:
            await asyncio.wait_for(writer.gain(), PATIENCE_S)
            thief = await asyncio.create_subprocess_exec(
                "ovsdb-client", "steal", nb.nb, LOCK, stdout=asyncio.subprocess.PIPE
            )
            assert thief.stdout is not None
            try:
                async with asyncio.timeout(PATIENCE_S):
                    assert await thief.stdout.readline()  # the answer: it is had
                writer.want(dict([switch("s2")]))
                await until("it is written", lambda: listed(nb, "Logical_Switch") == ["s1", "s2"])
                assert thief.returncode is None and writer.active
            finally:
                thief.terminate()
                await thief.wait()

    asyncio.run(story())


def test_groups_keep_their_members_while_it_is_not_known_who_they_are(nb: OvnSandbox) -> None:
    group, names = RowKey("Port_Group", "held"), RowKey("Address_Set", "held")

    def some(*numbers: int) -> dict[RowKey, Row]:
        rows = dict([switch(), *(port(f"p{number}") for number in numbers)])
        refs = {"ports": frozenset(key for key in rows if key.table == "Logical_Switch_Port")}
        addresses = frozenset(f"10.0.0.{number}" for number in numbers)
        rows[group] = Row({"name": "held"}, refs)
        rows[names] = Row({"name": "held", "addresses": addresses})
        return rows

    async def story() -> None:
        async with writing(nb.nb, some(1, 2, 3)):
            assert members(nb) == (3, {"10.0.0.1", "10.0.0.2", "10.0.0.3"})
        async with writing(nb.nb, {}, hold=ALL_AND_MEMBERS) as writer:
            writer.want(some(1, 4))
            await settle(writer)
            everybody = {f"10.0.0.{number}" for number in (1, 2, 3, 4)}
            assert members(nb) == (4, everybody)
            deeds, _ = await writer.difference()
            assert all(deed.action == "delete" for deed in deeds)
            writer.begin()
            await settle(writer)
            assert members(nb) == (2, {"10.0.0.1", "10.0.0.4"})

    asyncio.run(story())


def test_who_says_nothing_stays_in_groups_and_who_speaks_leaves_them(nb: OvnSandbox) -> None:
    group, names = RowKey("Port_Group", "held"), RowKey("Address_Set", "held")
    rules = RowKey("ACL", "rule")

    def some(ports: tuple[int, ...], members: tuple[int, ...]) -> dict[RowKey, Row]:
        made = {number: port(f"p{number}") for number in ports}
        refs = {"ports": frozenset(made[number][0] for number in members)}
        addresses = frozenset(f"p{number}" for number in members)
        rows = dict([switch(), *made.values()])
        rows[group] = Row({"name": "held"}, refs)
        rows[names] = Row({"name": "held", "addresses": addresses})
        return rows

    def there() -> tuple[int, set[str], int]:
        return *members(nb), len(listed(nb, "Logical_Switch_Port"))

    async def story() -> None:
        acl: dict[str, Value] = {"priority": 1, "direction": "to-lport", "match": "1"}
        rule = Row({**acl, "action": "drop"}, parent=(group, "acls"))
        async with writing(nb.nb, some((1, 2, 3), (1, 2, 3)) | {rules: rule}):
            assert there() == (3, {"p1", "p2", "p3"}, 3)
        # p3 says nothing, p2 says that it belongs to nobody.
        async with writing(nb.nb, some((1, 2), (1,)), hold=EVERYTHING) as writer:
            assert there() == (2, {"p1", "p3"}, 3)
            assert all(deed.action != "delete" for deed in (await writer.difference())[0])
            # A policy that says nothing holds only what is of policies.
            writer.begin(Hold(RULES))
            await settle(writer)
            assert there() == (1, {"p1"}, 2)
            assert len(listed(nb, "ACL", "priority")) == 1
            writer.begin()
            await settle(writer)
            assert listed(nb, "ACL", "priority") == []

    asyncio.run(story())


def test_who_is_told_to_forget_removes_nothing(nb: OvnSandbox) -> None:
    async def story() -> None:
        async with writing(nb.nb, topology()) as writer:
            before = listed(nb, "Logical_Switch_Port")
            # All of it in doubt, and still asked to sweep: as when leadership ends meanwhile.
            writer.want(topology())
            writer.forget()
            await settle(writer)
            assert listed(nb, "Logical_Switch_Port") == before != []
            writer.want(dict([switch()]))
            await until("what is new is wanted", lambda: listed(nb, "Logical_Switch") == ["s1"])

    asyncio.run(story())


def test_a_row_that_nobody_can_understand_costs_no_other(nb: OvnSandbox) -> None:
    async def story() -> None:
        odd = {RowKey("Address_Set", "odd"): Row({"name": "odd", "external_ids": "none"})}
        async with writing(nb.nb, topology() | odd) as writer:
            assert len(listed(nb, "Logical_Switch_Port")) == 3
            assert set(writer.failures) == set(odd)
            assert "defect" in writer.failures[next(iter(odd))].reason

    asyncio.run(story())
