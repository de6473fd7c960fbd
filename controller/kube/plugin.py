"""Credential plugins: commands that a kubeconfig names, which print a token for a while.

Source: the Kubernetes documentation on authentication, "client-go credential plugins"
(client.authentication.k8s.io/v1).
"""

from __future__ import annotations

import datetime
import math
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec

from controller.kube.errors import ConfigError

GROUP = "client.authentication.k8s.io"
VERSIONS = (f"{GROUP}/v1", f"{GROUP}/v1beta1")
PATIENCE_S = 10.0
"""How long a plugin may take [s]; everything waits for it."""
AGAIN_S = 20.0
"""So long after a plugin failed it is not asked again [s]: every request would wait for it."""
EARLY = datetime.timedelta(seconds=60)
"""So long before its end a token is asked for anew."""


class _Status(msgspec.Struct, rename="camel"):
    token: str = ""
    expiration_timestamp: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None


class _Credential(msgspec.Struct, rename="camel"):
    api_version: str = ""
    status: _Status | None = None


@dataclass(slots=True)
class PluginToken:
    """What a plugin prints, kept until shortly before its end.

    Attributes:
        command: the plugin and its arguments.
        environment: what is added to ours for it.
        version: of the answer that it is asked for.
        hint: how to install it, as the kubeconfig says.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = VERSIONS[0]
    hint: str = ""
    _token: str = field(default="", repr=False)
    _until: datetime.datetime | None = None
    _failed: tuple[float, str] = field(default=(-math.inf, ""), repr=False)

    def read(self) -> str:
        """The token.

        Raises:
            ConfigError: the plugin is missing, failed, or printed none.
        """
        now = datetime.datetime.now(datetime.UTC)
        if not self._token or (self._until is not None and now >= self._until - EARLY):
            since, cause = self._failed
            if time.monotonic() - since < AGAIN_S:
                raise ConfigError(cause)
            status = self._ask()
            self._token, self._until = status.token, status.expiration_timestamp
        return self._token

    def forget(self) -> None:
        """Ask the plugin anew: the token was refused."""
        self._token = ""

    def _ask(self) -> _Status:
        asked = {"apiVersion": self.version, "kind": "ExecCredential"}
        told = msgspec.json.encode({**asked, "spec": {"interactive": False}}).decode()
        try:
            done = subprocess.run(  # noqa: S603  # the command that the operator's file names
                list(self.command),
                env={**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": told},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            self._fail(str(problem), problem)
        if done.returncode:
            self._fail(done.stderr.decode(errors="replace").strip()[-500:] or "no word")
        try:
            found = msgspec.json.decode(done.stdout, type=_Credential)
        except msgspec.MsgspecError as problem:
            self._fail(f"it printed no ExecCredential: {problem}", problem)
        if found.api_version != self.version:
            self._fail(f"it printed {found.api_version!r}, where {self.version} was asked for")
        if found.status is None or not found.status.token:
            self._fail("it printed no token (client certificates of plugins are not supported)")
        return found.status

    def _fail(self, cause: str, problem: Exception | None = None) -> NoReturn:
        step = self.hint or "run it by hand, or write a token to a file and name it as tokenFile"
        msg = f"credential plugin {self.command[0]}: {cause}; {step}"
        self._failed = (time.monotonic(), msg)
        raise ConfigError(msg) from problem


def plugin_of(config: Mapping[str, Any], at: Path) -> PluginToken:
    """The plugin of a user's `exec` in a kubeconfig at this path.

    Raises:
        ConfigError: it wants something that there is not here.
    """
    name, version = str(config.get("command") or ""), str(config.get("apiVersion") or "")
    if not name:
        msg = f"kubeconfig {at}: exec without a command; name one"
        raise ConfigError(msg)
    if version not in VERSIONS:
        msg = f"kubeconfig {at}: exec of {version!r} is not supported; write one of {VERSIONS}"
        raise ConfigError(msg)
    if config.get("interactiveMode") == "Always":
        msg = f"kubeconfig {at}: exec that asks somebody is not supported; use another credential"
        raise ConfigError(msg)
    if config.get("provideClusterInfo"):
        msg = f"kubeconfig {at}: exec with provideClusterInfo is not supported; use a tokenFile"
        raise ConfigError(msg)
    if "/" in name and not name.startswith("/"):
        # Relative to the file, as kubectl has it; a name alone is looked for in PATH.
        name = str(at.parent / name)
    try:
        environment = {str(one["name"]): str(one["value"]) for one in config.get("env") or ()}
    except (KeyError, TypeError) as problem:
        msg = f"kubeconfig {at}: exec.env is no list of entries with a name and a value: correct it"
        raise ConfigError(msg) from problem
    arguments = [str(one) for one in config.get("args") or ()]
    return PluginToken(
        [name, *arguments], environment, version, str(config.get("installHint") or "").strip()
    )
