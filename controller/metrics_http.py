"""The HTTP server of metrics: one answer in Prometheus' text format, packed for who asks for it."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from controller.metrics_text import CONTENT_TYPE, TextWriter

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

PACKING = 1
"""gzip's level: Prometheus asks for gzip, and the library's level 9 takes ten times as long."""

LAST_PORT = 65535
PATIENCE_S = 30.0
"""How long a client may take for its request, and a server for its end."""


class Spent:
    """Processor time that answers took, in seconds of the threads that gave them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count what this thread uses meanwhile."""
        began = time.thread_time()
        try:
            yield
        finally:
            with self._lock:
                self.seconds += time.thread_time() - began


class MetricsServer:
    """Answers GET, whatever the path; `stop` it.

    Args:
        listen: "host:port"; an IPv6 address in brackets.
        collector: asked once for each answer, by one thread at a time.
        spent: where to count what answers cost.

    Raises:
        OSError: the address cannot be listened on.
        ValueError: it is none.
    """

    def __init__(self, listen: str, collector: Collector, spent: Spent) -> None:
        host, _, port = listen.rpartition(":")
        if not 0 <= int(port) <= LAST_PORT:
            msg = f"{port} is no port"
            raise ValueError(msg)
        self._collector, self._writer, self._lock = collector, TextWriter(), threading.Lock()
        found = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with spent.measured():
                    body = outer.answer()
                    self.send_response(HTTPStatus.OK)
                    if "gzip" in self.headers.get("Accept-Encoding", ""):
                        body = gzip.compress(body, PACKING)
                        self.send_header("Content-Encoding", "gzip")
                    self.send_header("Content-Type", CONTENT_TYPE)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: a scrape is no news."""

        Handler.timeout = PATIENCE_S

        class Server(ThreadingHTTPServer):
            address_family: int = family
            daemon_threads = True

        self._server = Server((str(address[0]), int(address[1])), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def answer(self) -> bytes:
        """The text of one scrape."""
        with self._lock:
            return self._writer.write(self._collector.collect())

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE_S)
