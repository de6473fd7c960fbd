"""`ssl:` remotes whose failures are failures of a connection, and are told in words.

The library's own stream lets what OpenSSL says fly through its session: a certificate that does
not verify, or a file that is missing, would end the client's thread for good, where an unreachable
server is just tried again. `install` puts this stream in its place. It reads the files anew for
each connection, so certificates may be exchanged under a running daemon.
"""

from __future__ import annotations

import errno
import logging
import select
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import ovs.stream

from dataplane.ports import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")

FILES = "private_key, certificate and ca_certificate"

_CONNECTED = ovs.stream.Stream._Stream__S_CONNECTED  # noqa: SLF001  # it has no public name

_STRANGER = (
    "it was signed by an authority that the server does not know; ask the server's authority for"
    " one, or give the server ours"
)
_ALERTS = {
    "UNKNOWN_CA": _STRANGER,
    # The server has an authority of the same name, with another key.
    "DECRYPT_ERROR": _STRANGER,
    "CERTIFICATE_EXPIRED": "it has expired; renew it",
    "CERTIFICATE_REQUIRED": "the server wants one; name it in the file",
    "BAD_CERTIFICATE": "the server cannot read it; make it anew",
    "CERTIFICATE_REVOKED": "it was revoked; renew it",
}
"""What a server's alert says of our certificate (RFC 8446, 6.2), and what to do."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for `ssl:` remotes. The library keeps them per process, so all clients share one."""

    private_key: str
    certificate: str
    ca_certificate: str


_problems: dict[str, str] = {}
"""By remote: why the last try failed. Threads only set and remove whole entries."""


def problem_of(remote: str) -> str:
    """Why there is no encrypted connection to these remotes: "cause; next step", or ""."""
    found = [_problems[one] for one in remote.split(",") if one in _problems]
    # One is enough to begin with: members of a cluster mostly have the same.
    return found[0] if found else ""


def use_tls(tls: Tls) -> None:
    """Have the library use these files for `ssl:` remotes.

    Raises:
        ConfigError: others are in use already.
    """
    stream = ovs.stream.Stream
    current = (
        stream._SSL_private_key_file,  # noqa: SLF001  # there are setters, but no getters
        stream._SSL_certificate_file,  # noqa: SLF001
        stream._SSL_ca_cert_file,  # noqa: SLF001
    )
    wanted = (tls.private_key, tls.certificate, tls.ca_certificate)
    if any(current) and current != wanted:
        msg = f"one process has one TLS identity: {current} is in use, {wanted} was asked for"
        raise ConfigError(msg)
    if current != wanted:
        _problems.clear()  # who was refused was another
    stream.ssl_set_private_key_file(tls.private_key)
    stream.ssl_set_certificate_file(tls.certificate)
    stream.ssl_set_ca_cert_file(tls.ca_certificate)


class TlsStream(ovs.stream.SSLStream):  # type: ignore[misc]  # the library has no types
    """The library's stream, of which every failure is an error number, and kept in words."""

    _greeted = False
    """Our part of the handshake is out, and the server's has to come."""

    _shaken = False

    @staticmethod
    def _open(suffix: str, dscp: int) -> tuple[int, Any]:
        remote = f"ssl:{suffix}"
        if why := _in_use_problem():
            _note(remote, why)
            return errno.EPROTO, None
        return _guarded(
            remote,
            lambda: ovs.stream.SSLStream._open(suffix, dscp),  # noqa: SLF001  # what we extend
            (errno.EPROTO, None),
        )

    def connect(self) -> int:
        """0 once the handshake is done, EAGAIN while it goes on, else what it failed with."""
        if self._shaken:
            return 0
        found: int = _guarded(self.name, super().connect, errno.EPROTO)
        # EAGAIN also while TCP still connects, and before the handshake began.
        self._greeted = found == errno.EAGAIN and self.state == _CONNECTED
        self._shaken = found == 0
        return found

    def wait(self, poller: Any, wait: int) -> None:
        """As the library's, but for what it would miss, or ask for without end."""
        if self._shaken and wait == self.W_RECV and self.socket.pending():
            # Decrypted already: nothing of it shows at the descriptor.
            poller.immediate_wake()
        elif self._greeted and wait == self.W_CONNECT:
            # The descriptor can be written to all the time.
            poller.fd_wait(self.socket, select.POLLIN)
        else:
            super().wait(poller, wait)

    def recv(self, n: int) -> tuple[int, Any]:
        """As the library's; since TLS 1.3 a server refuses a client by what comes first here."""
        try:
            failed, octets = self._taken(n)
        except ssl.SSLError as error:
            _note(self.name, _in_words(self.name, error))
            return errno.EPROTO, b""
        if octets:
            # Not before: after the handshake a server may still refuse us.
            _problems.pop(self.name, None)
        return failed, octets

    def _taken(self, n: int) -> tuple[int, Any]:
        if (waiting := self.connect()) or n == 0:
            return waiting, b""
        try:
            return 0, self.socket.recv(n)
        except ssl.SSLWantReadError:
            return errno.EAGAIN, b""
        except ssl.SSLZeroReturnError:
            return 0, b""
        except ssl.SSLError:
            raise
        except OSError as error:
            return error.errno or errno.EPROTO, b""


def install() -> None:
    """Put our stream in the library's place; again is the same."""
    ovs.stream.Stream.register_method("ssl", TlsStream)


def _in_use_problem() -> str:
    stream = ovs.stream.Stream
    found = (
        stream._SSL_private_key_file,  # noqa: SLF001  # no getters
        stream._SSL_certificate_file,  # noqa: SLF001
        stream._SSL_ca_cert_file,  # noqa: SLF001
    )
    return files_problem(Tls(*found)) if all(found) else f"no files for it; name {FILES}"


def files_problem(tls: Tls) -> str:
    """What is wrong with these files: "cause; next step"; "" if nothing is.

    What only a server can say, and whether they have expired, is not asked.
    """
    key, own, authorities = tls.private_key, tls.certificate, tls.ca_certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    steps: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("ca_certificate", authorities, lambda: context.load_verify_locations(authorities)),
        ("certificate", own, lambda: _read(own)),
        ("private_key", key, lambda: _read(key)),
        ("certificate", own, lambda: context.load_cert_chain(own, key, password="")),
    )
    for name, path, load in steps:
        try:
            load()
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                return f"{own} is the certificate of another key than {key}; make both anew"
            return f"{name} {path} is no PEM file of that kind ({_reason(error)}); make it anew"
        except OSError as error:
            return f"{name} {path}: {error.strerror}; put it there, or correct the path"
    return ""


def named_until(certificate: str) -> tuple[str, float]:
    """A certificate's common name, and when it expires [s since the epoch].

    Raises:
        OSError, ssl.SSLError: it cannot be read.
    """
    # The library decodes certificates of peers only; this is what its own tests use.
    found = ssl._ssl._test_decode_cert(certificate)  # type: ignore[attr-defined]  # noqa: SLF001
    names = [value for part in found["subject"] for key, value in part if key == "commonName"]
    return (names[-1] if names else ""), float(ssl.cert_time_to_seconds(found["notAfter"]))


def _read(path: str) -> None:
    with open(path, "rb"):  # noqa: PTH123  # only whether it can be
        pass


def _guarded(remote: str, step: Callable[[], T], failed: T) -> T:
    try:
        return step()
    except (OSError, ValueError) as error:
        _note(remote, _in_words(remote, error))
        return failed


def _note(remote: str, why: str) -> None:
    if _problems.get(remote) != why:
        _problems[remote] = why
        log.warning("tls_failed remote=%s reason=%s", remote, why)


def _in_words(remote: str, error: Exception) -> str:
    stream = ovs.stream.Stream
    own = stream._SSL_certificate_file  # noqa: SLF001  # no getters
    authorities = stream._SSL_ca_cert_file  # noqa: SLF001
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the certificate of {remote} was refused: {error.verify_message}"
        if "expired" in error.verify_message:
            return f"{what}; renew the server's certificate"
        return f"{what}; {authorities} has to have the authority that signed it"
    if isinstance(error, ssl.SSLError):
        for alert, step in _ALERTS.items():
            if alert in (error.reason or ""):
                return f"{remote} refuses our certificate {own}: {step}"
        if error.reason == "WRONG_VERSION_NUMBER" or isinstance(
            error, ssl.SSLEOFError | ssl.SSLZeroReturnError
        ):
            return f"{remote} does not speak TLS; its pssl: port is meant, not its ptcp:"
        return f"no TLS with {remote}: {_reason(error)}; is it the pssl: port of an ovsdb-server?"
    return f"no TLS with {remote}: {error}; look at the server's log"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
