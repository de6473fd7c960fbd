"""kubeconfig files: clusters, users and contexts, as kubectl reads them.

What is not supported is refused by name: a credential that silently had no effect would show as
a 401 that nobody can explain.
"""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from controller.kube.auth import Access, Token, TokenFile, Trust
from controller.kube.errors import ConfigError
from controller.kube.plugin import plugin_of

_REFUSED = {
    "auth-provider": "it was removed from Kubernetes; use a token or a client certificate",
    "username": "passwords were removed from Kubernetes; use a token or a client certificate",
    "as": "impersonation is not supported; give the user the rights of its own",
    "as-groups": "impersonation is not supported; give the user the rights of its own",
    "as-uid": "impersonation is not supported; give the user the rights of its own",
}


def default_paths(environment: dict[str, str] | None = None) -> list[Path]:
    """The files that KUBECONFIG names, else ~/.kube/config."""
    env = os.environ if environment is None else environment
    if named := env.get("KUBECONFIG"):
        return [Path(part) for part in named.split(os.pathsep) if part]
    return [Path(env.get("HOME", "/root")) / ".kube" / "config"]


def load(paths: Sequence[Path], context: str = "") -> Access:
    """The access that a context gives; the first file that names a thing wins.

    Raises:
        ConfigError: a file is missing or wrong, the context is not there, or something in it is
            not supported.
    """
    clusters: dict[str, tuple[Any, Path]] = {}
    users: dict[str, tuple[Any, Path]] = {}
    contexts: dict[str, tuple[Any, Path]] = {}
    current = context
    for path in paths:
        found = _read(path)
        for into, plural, single in (
            (clusters, "clusters", "cluster"),
            (users, "users", "user"),
            (contexts, "contexts", "context"),
        ):
            for entry in found.get(plural) or ():
                into.setdefault(entry["name"], (entry.get(single) or {}, path))
        current = current or found.get("current-context", "")
    names = ", ".join(map(str, paths))
    if not current:
        msg = f"kubeconfig {names}: no current-context; name one"
        raise ConfigError(msg)
    chosen, _ = _named(contexts, current, "context", names)
    cluster, at = _named(clusters, chosen.get("cluster", ""), "cluster", names)
    user, user_at = _named(users, chosen.get("user", ""), "user", names)
    return _access(cluster, at, user, user_at, chosen.get("namespace") or "default")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as problem:
        msg = f"kubeconfig {path}: {problem.strerror}; name another with KUBECONFIG"
        raise ConfigError(msg) from problem
    except yaml.YAMLError as problem:
        msg = f"kubeconfig {path} is no YAML: {problem}"
        raise ConfigError(msg) from problem
    if not isinstance(found, dict):
        msg = f"kubeconfig {path} holds no mapping; is it a kubeconfig?"
        raise ConfigError(msg)
    return found


def _named(
    table: dict[str, tuple[Any, Path]], name: str, what: str, where: str
) -> tuple[Any, Path]:
    if name not in table:
        known = ", ".join(sorted(table)) or "none"
        msg = f"kubeconfig {where}: there is no {what} {name!r}; it has: {known}"
        raise ConfigError(msg)
    return table[name]


def _access(cluster: Any, at: Path, user: Any, user_at: Path, namespace: str) -> Access:
    for what, instead in _REFUSED.items():
        if user.get(what):
            msg = f"kubeconfig {user_at}: users with {what!r} are not supported; {instead}"
            raise ConfigError(msg)
    if cluster.get("proxy-url"):
        msg = f"kubeconfig {at}: proxy-url is not supported; reach the API server directly"
        raise ConfigError(msg)
    server = str(cluster.get("server", "")).rstrip("/")
    if not server.startswith(("https://", "http://")):
        msg = f"kubeconfig {at}: the server is {server!r}, which is no http or https URL"
        raise ConfigError(msg)
    held: list[object] = []
    trust = None
    if server.startswith("https://"):
        certificate = _file(user, "client-certificate", user_at, held)
        key = _file(user, "client-key", user_at, held)
        if (certificate is None) != (key is None):
            msg = f"kubeconfig {user_at}: client-certificate and client-key only go together"
            raise ConfigError(msg)
        trust = Trust(
            _file(cluster, "certificate-authority", at, held),
            certificate,
            key,
            bool(cluster.get("insecure-skip-tls-verify")),
        )
    token: str | Token | None = user.get("token") or None
    if user.get("exec"):
        token = plugin_of(user["exec"], user_at)
    if user.get("tokenFile"):
        # Of both the file counts, as for kubectl: it is what rotates.
        token = TokenFile(_beside(user_at, user["tokenFile"]))
    name = cluster.get("tls-server-name")
    return Access(server, trust, token, name, namespace, held)


def _beside(at: Path, text: str) -> Path:
    """A path of a kubeconfig: relative ones are relative to the file."""
    path = Path(text)
    return path if path.is_absolute() else at.parent / path


def _file(table: Any, name: str, at: Path, held: list[object]) -> Path | None:
    """A file that is named, or made (0600, gone with us) of data that is inline."""
    if data := table.get(f"{name}-data"):
        try:
            # Lines of it may be broken: kubectl's decoder passes over that, too.
            content = base64.b64decode("".join(str(data).split()), validate=True)
        except (binascii.Error, ValueError) as problem:
            msg = f"kubeconfig {at}: {name}-data is no base64: {problem}"
            raise ConfigError(msg) from problem
        # ssl reads certificates and keys from files only.
        file = tempfile.NamedTemporaryFile(prefix="millrace-", suffix=".pem")  # noqa: SIM115
        file.write(content)
        file.flush()
        held.append(file)
        return Path(file.name)
    if named := table.get(name):
        return _beside(at, named)
    return None
