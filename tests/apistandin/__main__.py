"""The stand-in by hand: `python -m tests.apistandin [--port N] [FILE.yaml ...]`."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import yaml

from tests.apistandin.server import StandIn
from tests.apistandin.steps import Options


async def serve(port: int, files: list[Path]) -> None:
    async with StandIn(port=port) as api:
        for file in files:
            for obj in yaml.safe_load_all(file.read_text()):
                load(api, obj)
        print(api.url, flush=True)
        await asyncio.Event().wait()


def load(api: StandIn, obj: dict[str, object] | None) -> None:
    """Create one object of a manifest; definitions before what they define."""
    if not obj:
        return
    for kind in api.cluster.kinds.values():
        if (kind.api_version, kind.kind) == (obj["apiVersion"], obj["kind"]):
            metadata = obj["metadata"]
            assert isinstance(metadata, dict)
            space = metadata.get("namespace", "default") if kind.namespaced else ""
            api.cluster.create(kind, space, obj, Options("kubectl-create"))
            return
    raise SystemExit(f"{obj['apiVersion']} {obj['kind']}: the stand-in does not serve it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("files", type=Path, nargs="*")
    given = parser.parse_args()
    asyncio.run(serve(given.port, given.files))
