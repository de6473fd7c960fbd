"""The cluster's question for signs of life, and the answers: two tiny replicas of their own.

Beside the large ones, so that a question every few seconds makes nobody look at anything else.
"""

from __future__ import annotations

from collections.abc import Callable

from controller.translate.pulse import Signs
from dataplane.drivers.idl import DatabaseClient, Replica, Row, Transaction, read, write

BEAT_TIMEOUT_S = 10.0


def question(remote: str) -> DatabaseClient[int]:
    """A client of the northbound database that can `ask`; start it."""
    return DatabaseClient(
        remote=remote,
        database="OVN_Northbound",
        tables={"NB_Global": ("nb_cfg",)},
        snapshot=lambda replica: max(
            (int(read(r, "nb_cfg")) for r in _globals(replica)), default=0
        ),
        leader_only=True,
    )


def answers(remote: str, on_change: Callable[[Signs], None]) -> DatabaseClient[Signs]:
    """A client of the southbound database that watches the answers; start it."""
    return DatabaseClient(
        remote=remote,
        database="OVN_Southbound",
        tables={"SB_Global": ("nb_cfg",), "Chassis_Private": ("name", "nb_cfg")},
        snapshot=_signs,
        on_change=on_change,
    )


def ask(client: DatabaseClient[int]) -> None:
    """Raise the question's number by one.

    Raises:
        DataplaneError: the database cannot be reached, or refused it.
    """

    def work(replica: Replica, txn: Transaction) -> None:
        del txn  # writes of a row are of the open transaction
        for row in _globals(replica):
            row.verify("nb_cfg")
            write(row, "nb_cfg", int(read(row, "nb_cfg")) + 1)

    client.transact(work, BEAT_TIMEOUT_S)


def _globals(replica: Replica) -> list[Row]:
    return list(replica.rows("NB_Global"))


def _signs(replica: Replica) -> Signs:
    asked = [int(read(row, "nb_cfg")) for row in replica.rows("SB_Global")]
    return Signs(
        asked=max(asked, default=0),
        answered={
            str(read(row, "name")): int(read(row, "nb_cfg"))
            for row in replica.rows("Chassis_Private")
        },
    )
