"""A private authority for tests: keys and certificates by openssl, good ones and wrong ones."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


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
    """An authority with its files in `directory`; `make` it first."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """Its own certificate."""
        return self.directory / "ca.pem"

    @classmethod
    def make(cls, directory: Path) -> Authority:
        """A new one."""
        directory.mkdir(parents=True)
        made = cls(directory)
        _openssl(
            "req", "-x509", *_KEY, "-days", "2", "-subj", "/CN=authority",
            "-keyout", directory / "ca.key", "-out", made.certificate,
        )  # fmt: skip
        return made

    def identity(self, name: str, *, days: int = 2) -> Identity:
        """A key and a certificate with this common name; of `days` -1 it has expired."""
        key, request, signed = (self.directory / f"{name}.{end}" for end in ("key", "csr", "pem"))
        _openssl("req", *_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate,
            "-CAkey", self.directory / "ca.key", "-CAcreateserial", "-days", days, "-out", signed,
        )  # fmt: skip
        return Identity(str(key), str(signed), str(self.certificate))


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, timeout=60)
