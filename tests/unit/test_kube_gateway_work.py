"""Gateways' rows go on being made after a defect."""

from __future__ import annotations

import asyncio

import pytest

from controller import kubegateways
from controller.central import Central
from controller.kubegateways import Gateways
from tests.labs.ovnrows import cluster_config


def test_work_that_ends_by_a_defect_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Central] = []

    async def story() -> None:
        again = asyncio.Event()

        async def keep(central: Central) -> None:
            begun.append(central)
            if len(begun) == 1:
                raise ZeroDivisionError
            again.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(Central, "keep", keep)
        monkeypatch.setattr(kubegateways, "RETRY_S", 0.0)
        gateways = Gateways()
        gateways.tell(cluster_config())
        await asyncio.wait_for(again.wait(), 30)
        gateways.stop()

    asyncio.run(story())
    assert len(begun) == 2 and begun[0] is not begun[1]
    assert begun[0].cluster == begun[1].cluster
