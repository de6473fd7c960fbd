"""One more user of a directory and of what is made in it: POSIX ACLs (acl(5)).

Set as extended attributes, as setfacl(1) does, so that it need not be installed. Connecting to a
socket takes the right to write. A default ACL gives it for files whatever the umask of who makes
them, but the kernel applies the umask to sockets all the same: QEMU has to run with one that leaves
the group's rights, such as 0007.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_ALL, _NONE = 7, 0
_NOBODY = 0xFFFFFFFF


def grant(directory: Path, uid: int) -> None:
    """Let `uid` do in a directory of mode 0770 what its owner may, and others nothing.

    Raises:
        OSError: the file system has no ACLs, or refused.
    """
    packed = _packed(uid)
    for name in (ACCESS, DEFAULT):
        os.setxattr(directory, name, packed)


def granted(directory: Path, uid: int) -> bool:
    """Whether that was done."""
    try:
        return all(os.getxattr(directory, name) == _packed(uid) for name in (ACCESS, DEFAULT))
    except OSError:
        return False


def _packed(uid: int) -> bytes:
    """The attribute's value: a version, then entries in the order of their tags."""
    entries = (
        (_OWNER, _ALL, _NOBODY),
        (_USER, _ALL, uid),
        (_GROUP, _ALL, _NOBODY),
        (_MASK, _ALL, _NOBODY),
        (_OTHER, _NONE, _NOBODY),
    )
    return struct.pack("<I", _VERSION) + b"".join(struct.pack("<HHI", *one) for one in entries)
