"""The plugin's executable and the network's conflist, put where a container runtime looks.

A runtime takes a conflist as the sign that its network is ready, so the order is the promise: the
executable first and tried, then the daemon asked, the conflist last; and the conflist is the first
to go. Each file comes whole, under its name at once (a runtime watches the directory).

The executable is a small static program that hands a call to the daemon (cni/launcher/launcher.c);
where it was not compiled, or does not run, it is the plugin itself. That lies hidden beside it in
any case, for what is out of the ordinary, and needs nothing on the host but a Python of 3.11 or
later: a script of four lines and the package `cni` in a zip, compiled beside its source. It runs
isolated (-I) and without `site` (-S), which is also the quickest way to start (a zip that is itself
the program costs 5 ms more: Python then loads what runs packages). The zip is named after what is
in it, so that script and zip are always of one version.
"""

from __future__ import annotations

import hashlib
import json
import logging
import py_compile
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cni
from cni import spec, wire
from dataplane.drivers import durable
from dataplane.ports import DataplaneError

PLUGIN = "millrace-cni"
MODULES = ("__init__", "asked", "config", "ipam", "plugin", "quickjson", "spec", "wire")
"""Of the package `cni`; the KubeVirt sidecar is a program of its own."""

_SCRIPT = """\
#!{python} -IS
import os, sys
sys.path.insert(0, {library!r})
from cni.plugin import main
os._exit(main())
"""
LAUNCHER = Path(cni.__file__).parent / "launcher" / "obj" / PLUGIN
"""Where `make launcher` puts the small program."""

_LIBRARY_PREFIX = f".{PLUGIN}-"
log = logging.getLogger(__name__)

_BYPASSED = ("portmap", "bandwidth")
_STATUS_EVERY_S = 0.2


class InstallError(DataplaneError):
    """Something could not be put in place; what was there before is still there."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where a runtime looks. `conflist` is the file's name there: the first by name counts."""

    binaries: Path
    networks: Path
    conflist: str

    @property
    def plugin(self) -> Path:
        """The executable."""
        return self.binaries / PLUGIN

    @property
    def script(self) -> Path:
        """The plugin in Python; the launcher knows it by this name."""
        return self.binaries / f".{PLUGIN}.py"

    def libraries(self) -> list[Path]:
        """Of this version and of others."""
        return sorted(self.binaries.glob(f"{_LIBRARY_PREFIX}*.zip"))

    @property
    def network(self) -> Path:
        """The conflist."""
        return self.networks / self.conflist


@dataclass(frozen=True, slots=True)
class Plugin:
    """The plugin's two files."""

    script: bytes
    library: Path
    content: bytes


def plugin(python: str, directory: Path) -> Plugin:
    """The plugin, to be put into `directory` and run by `python`.

    Raises:
        OSError: the package's files cannot be read.
    """
    package = Path(cni.__file__).parent
    into = BytesIO()
    with zipfile.ZipFile(into, "w") as archive, tempfile.TemporaryDirectory() as scratch:
        for module in MODULES:
            source = package / f"{module}.py"
            archive.writestr(zipfile.ZipInfo(f"cni/{module}.py"), source.read_bytes())
            compiled = Path(scratch) / f"{module}.pyc"
            # Never compared with its source: both are in one file. Another Python passes it by.
            py_compile.compile(
                str(source),
                cfile=str(compiled),
                dfile=f"cni/{module}.py",
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            archive.writestr(zipfile.ZipInfo(f"cni/{module}.pyc"), compiled.read_bytes())
    content = into.getvalue()
    digest = hashlib.sha256(content).hexdigest()[:16]
    library = directory / f"{_LIBRARY_PREFIX}{digest}.zip"
    return Plugin(_SCRIPT.format(python=python, library=str(library)).encode(), library, content)


def conflist_of(data: bytes) -> Mapping[str, object]:
    """A conflist that can work.

    Raises:
        InstallError: it is none, we are not the first in it, or it chains a plugin whose work
            packets of ours never meet.
    """
    try:
        obj = json.loads(data.decode("utf-8"))
        kinds = [one["type"] for one in obj["plugins"]]
        version = obj["cniVersion"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"it is not a CNI conflist: {error!r}"
        raise InstallError(msg) from error
    if version not in spec.VERSIONS:
        msg = f'"cniVersion" is {version!r}; supported: {", ".join(spec.VERSIONS)}'
        raise InstallError(msg)
    if kinds[:1] != [PLUGIN] or PLUGIN in kinds[1:]:
        msg = (
            f'"plugins" are {", ".join(map(str, kinds))}: {PLUGIN} makes the interface, once, first'
        )
        raise InstallError(msg)
    for kind in kinds:
        if kind in _BYPASSED:
            capability = "portMappings" if kind == "portmap" else kind
            msg = (
                f"{kind} is chained, but packets of {PLUGIN}'s interfaces do not pass the node's "
                f'iptables and qdiscs; give {PLUGIN}\'s own entry "capabilities": '
                f'{{"{capability}": true}} instead'
            )
            raise InstallError(msg)
    return dict(obj)


def install(places: Places, conflist: bytes, python: str, wait_s: float = 0.0) -> list[Path]:
    """Put everything in place; the files that were written, in this order.

    `wait_s`: how long the daemon may take to say that it is ready, in seconds; 0: it is not asked.

    Raises:
        InstallError: the conflist cannot work, the executable does not run here, or the daemon is
            not ready; the conflist is as it was before.
    """
    obj = conflist_of(conflist)
    try:
        places.binaries.mkdir(parents=True, exist_ok=True)
        places.networks.mkdir(parents=True, exist_ok=True)
        made = plugin(python, places.binaries)
        fresh = not made.library.exists()
        durable.put(made.library, made.content, 0o644)
        try:
            durable.put(places.script, made.script, 0o755, _try)
            _put_executable(places, made)
        except BaseException:
            if fresh:
                made.library.unlink(missing_ok=True)
            raise
        if wait_s > 0:
            _await_ready(obj, wait_s)
        durable.put(places.network, conflist, 0o644)
        for other in places.libraries():
            if other != made.library:
                other.unlink(missing_ok=True)
    except OSError as error:
        msg = f"cannot install below {places.binaries} and {places.networks}: {error}"
        raise InstallError(msg) from error
    return [made.library, places.script, places.plugin, places.network]


def remove(places: Places) -> list[Path]:
    """Take everything away, the conflist first; the files that were there.

    Raises:
        InstallError: the file system refused.
    """
    gone = []
    for path in (places.network, places.plugin, places.script, *places.libraries()):
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            msg = f"cannot remove {path}: {error.strerror}"
            raise InstallError(msg) from error
        durable.sync(path.parent)
        gone.append(path)
    return gone


def _put_executable(places: Places, made: Plugin) -> None:
    """The launcher, or the script where there is none that runs here."""
    if LAUNCHER.exists():
        try:
            durable.put(places.plugin, LAUNCHER.read_bytes(), 0o755, _try)
        except InstallError as error:
            log.warning("launcher_does_not_run error=%s; the plugin is run itself", error)
        else:
            return
    durable.put(places.plugin, made.script, 0o755, _try)


def _try(path: Path) -> None:
    """Run the executable once: the interpreter may be missing, or too old."""
    try:
        done = subprocess.run(  # noqa: S603 - what was written just now
            [str(path)],
            env={"CNI_COMMAND": "VERSION"},
            input=b"{}",
            capture_output=True,
            timeout=30,
            check=False,
        )
        said = json.loads(done.stdout)["supportedVersions"]
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        msg = f"the plugin does not run here: {error}; name a Python of 3.11 or later"
        raise InstallError(msg) from error
    if said != list(spec.VERSIONS):
        msg = f"the plugin says that it supports {said}"
        raise InstallError(msg)


def _await_ready(obj: Mapping[str, object], wait_s: float) -> None:
    plugins = obj["plugins"]
    assert isinstance(plugins, list)
    socket = str(plugins[0].get("socket", "/run/millrace/cni.sock"))
    deadline = time.monotonic() + wait_s
    while True:
        try:
            wire.call(socket, "status", {}, 5.0)
        except (wire.WireError, wire.RemoteError) as error:
            if time.monotonic() > deadline:
                msg = f"the node daemon is not ready after {wait_s:g} s: {error}"
                raise InstallError(msg) from error
            time.sleep(_STATUS_EVERY_S)
        else:
            return
