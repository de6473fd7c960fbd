"""A private authority for tests, by the script that operators have."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "deploy/tls/make-certificates"


@dataclass(frozen=True, slots=True)
class Identity:
    """Files of one end."""

    key: str
    certificate: str
    authority: str

    @property
    def options(self) -> tuple[str, ...]:
        """As every program of OVS and OVN takes them."""
        return (
            f"--private-key={self.key}",
            f"--certificate={self.certificate}",
            f"--ca-cert={self.authority}",
        )

    @property
    def toml(self) -> str:
        """As the node's and the cluster's files take them."""
        return (
            f'private_key = "{self.key}"\ncertificate = "{self.certificate}"\n'
            f'ca_certificate = "{self.authority}"\n'
        )


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority whose files are in `directory`; it is made with its first certificate."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """Its own certificate."""
        return self.directory / "ca.pem"

    def identity(self, name: str, *, days: int = 2) -> Identity:
        """A key and a certificate with this common name; of `days` -1 it has expired."""
        subprocess.run(
            [str(SCRIPT), str(self.directory), name],
            check=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, "DAYS": str(days)},
        )
        made = self.directory / name
        return Identity(*(str(made / f"{file}.pem") for file in ("key", "cert", "ca")))
