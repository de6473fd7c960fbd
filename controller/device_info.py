"""The device information file: where a VM's launcher finds its vhost-user socket.

Source: k8snetworkplumbingwg/device-info-spec 1.1.0. `mode` is the workload's own part: QEMU makes
the socket and listens, so it is "server"; OVS is the client. Multus copies the file into the
pod's network status, KubeVirt gives that to the binding plugin.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from dataplane.model.state import Attachment

VERSION = "1.1.0"
_PARTIAL = ".millrace"


def content(attachment: Attachment) -> dict[str, object]:
    """The file's object."""
    vhost = {"mode": "server", "path": attachment.socket}
    return {"type": "vhost-user", "version": VERSION, "vhost-user": vhost}


def write(attachment: Attachment) -> None:
    """Write it whole, under its name at once.

    Raises:
        OSError: the file system refused.
    """
    path = Path(attachment.device_info)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(path.name + _PARTIAL)
    try:
        partial.write_text(json.dumps(content(attachment)) + "\n", encoding="utf-8")
        partial.chmod(0o644)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def remove(attachment: Attachment) -> None:
    """Remove it; a missing one, or one of somebody else's socket, is left so.

    Raises:
        OSError: the file system refused.
    """
    if _is_ours(attachment):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(attachment.device_info)  # noqa: PTH108 - as the runtime spelled it


def problems(attachment: Attachment) -> list[str]:
    """What is wrong with the file, in words. A runtime may take it away once it is read."""
    path = Path(attachment.device_info)
    if path.exists() and not _is_ours(attachment):
        return [f"device information {path} is not of socket {attachment.socket}"]
    return []


def _is_ours(attachment: Attachment) -> bool:
    try:
        text = Path(attachment.device_info).read_text(encoding="utf-8")
        return bool(json.loads(text) == content(attachment))
    except (OSError, ValueError):
        return False
