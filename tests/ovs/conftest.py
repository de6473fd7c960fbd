from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.sandbox import Sandbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/tests/ovs/" in str(item.path):
            item.add_marker(pytest.mark.ovs)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


@pytest.fixture
def database_only() -> Iterator[Sandbox]:
    with Sandbox(vswitchd=False) as box:
        yield box
