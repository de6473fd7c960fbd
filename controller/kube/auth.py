"""Who we are to the API server: tokens and certificates, read again when their files change."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from controller.kube.errors import ConfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Stamp = tuple[int, int, int]


def _stamp(path: Path) -> Stamp:
    """What changes when a file is replaced; follows the links by which the kubelet swaps them."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


class Token(Protocol):
    """A token that may be another one the next time."""

    def read(self) -> str:
        """The token for the next request; raises ConfigError."""

    def forget(self) -> None:
        """It was refused: whatever is remembered of it is void."""


@dataclass(slots=True)
class TokenFile:
    """A token in a file that rotates: the kubelet replaces it well before it expires."""

    path: Path
    _text: str = ""
    _stamp: Stamp | None = None

    def read(self) -> str:
        """The token as the file has it now.

        Raises:
            ConfigError: the file is missing, unreadable or empty, and there was no token before.
        """
        try:
            stamp = _stamp(self.path)
            if stamp != self._stamp:
                text = self.path.read_text().strip()
                if text:
                    self._text, self._stamp = text, stamp
        except OSError as problem:
            if not self._text:
                msg = (
                    f"token file {self.path}: {problem.strerror}; run in a pod with a service "
                    "account, or name a kubeconfig"
                )
                raise ConfigError(msg) from problem
        if not self._text:
            msg = f"token file {self.path} is empty; wait for the kubelet or name another file"
            raise ConfigError(msg)
        return self._text

    def forget(self) -> None:
        """Read the file again, whatever its times say: the token was refused."""
        self._stamp = None


@dataclass(slots=True)
class Trust:
    """TLS towards the server: its authorities and our certificate, by file.

    A context is made anew when one of the files changes.
    """

    ca: Path | None = None
    """Authorities; None: the system's."""
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False
    """Whether the server may be anybody (insecure-skip-tls-verify)."""
    _context: ssl.SSLContext | None = None
    _stamps: tuple[Stamp, ...] = ()

    def context(self) -> ssl.SSLContext:
        """The context for the next connection.

        Raises:
            ConfigError: a file cannot be read or is none of its kind.
        """
        files = [path for path in (self.ca, self.certificate, self.key) if path]
        try:
            stamps = tuple(_stamp(path) for path in files)
            if self._context is None or stamps != self._stamps:
                self._context, self._stamps = self._make(), stamps
        except OSError as problem:
            # ssl.SSLError is one too: a file that holds no certificate.
            if self._context is None:
                names = ", ".join(map(str, files)) or "the system's authorities"
                msg = f"TLS files ({names}): {problem}; check that they exist and are PEM"
                raise ConfigError(msg) from problem
        return self._context

    def _make(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # On from Python 3.13: it refuses the certificates of common installers, which name no
        # authority's key, and which every other client of the API takes.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate:
            context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(slots=True)
class Access:
    """Where the API server is, and what to show it.

    Attributes:
        server: its URL, without a path unless it lies behind one.
        token: a fixed token, or where to get one.
        server_name: the name that its certificate bears, if not the URL's.
        namespace: where we run, for what we create of our own (the lease).
    """

    server: str
    trust: Trust | None = None
    token: str | Token | None = None
    server_name: str | None = None
    namespace: str = "default"
    held: list[object] = field(default_factory=list)
    """What has to live as long as the access does (files of inline certificates)."""

    def headers(self) -> dict[str, str]:
        """The headers of a request that say who we are.

        Raises:
            ConfigError: there is no token to be had.
        """
        token = self.token
        if token is not None and not isinstance(token, str):
            token = token.read()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def refused(self) -> bool:
        """The server answered 401: whether trying once more may help."""
        if self.token is None or isinstance(self.token, str):
            return False
        self.token.forget()
        return True


def in_cluster(
    directory: Path = SERVICE_ACCOUNT, environment: dict[str, str] | None = None
) -> Access:
    """The access of a pod's service account.

    Raises:
        ConfigError: this is no pod, or it has no service account.
    """
    env = os.environ if environment is None else environment
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        msg = (
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod; name "
            "a kubeconfig"
        )
        raise ConfigError(msg)
    shown = f"[{host}]" if ":" in host else host
    namespace = directory / "namespace"
    token = TokenFile(directory / "token")
    token.read()
    return Access(
        f"https://{shown}:{port}",
        Trust(directory / "ca.crt"),
        token,
        namespace=namespace.read_text().strip() if namespace.exists() else "default",
    )
