"""Where the compiled programs are."""

from __future__ import annotations

from pathlib import Path

OBJECT_DIRECTORY = Path(__file__).parent / "obj"
"""Where `make -C bpf` puts the compiled objects."""
