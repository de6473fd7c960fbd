"""Transactions whose operations are written out (RFC 7047, 5.2), beside those of the library.

The library writes rows by attribute: each assignment converts the column's old and new values
several times, which costs milliseconds where a set has thousands of elements. Who knows what is
there and what is wanted says the operations themselves.
"""

from __future__ import annotations

from typing import Any

import ovs.db.idl
import ovs.jsonrpc

Operation = dict[str, Any]


class Transaction(ovs.db.idl.Transaction):  # type: ignore[misc]  # the library has no types
    """A transaction of the library, or, where `operations` has any, of exactly these.

    The lock that the client has asked for is asserted before them, as the library does.
    """

    def __init__(self, idl: ovs.db.idl.Idl) -> None:
        super().__init__(idl)
        self.operations: list[Operation] = []

    def commit(self) -> str:
        """Send it, or say what became of it; see the library."""
        idl = self.idl
        if not self.operations or self is not idl.txn or idl.state != idl.IDL_S_MONITORING:
            return str(super().commit())
        if idl.lock_name and not idl.has_lock:
            return str(super().commit())
        lock = [{"op": "assert", "lock": idl.lock_name}] if idl.lock_name else []
        request = [idl._db.name, *lock, *self.operations]  # noqa: SLF001  # no public way
        message = ovs.jsonrpc.Message.create_request("transact", request)
        self._request_id = message.id
        if idl._session.send(message):  # noqa: SLF001  # as above
            self._status = self.TRY_AGAIN
        else:
            idl._outstanding_txns[message.id] = self  # noqa: SLF001  # as above
            self._status = self.INCOMPLETE
        idl.txn = None
        return str(self._status)
