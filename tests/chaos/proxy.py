"""A small HTTP proxy on loopback in front of an object store, that fails as stores and networks fail."""

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Policy = Callable[[str, str], str]
"""Called with a request's method and path; says what becomes of it: one of ACTIONS."""
ACTIONS = ("pass", "503", "500", "429", "reset", "lost", "cut", "slow")
SLOW_SECONDS = 5.0
WRITES = ("PUT", "POST", "DELETE")
_BODY = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>injected</Message></Error>'
_CODES = {"503": "SlowDown", "500": "InternalError", "429": "TooManyRequests"}


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: int, policy: Policy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.policy = upstream, policy
        self.did: Counter[str] = Counter()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _handle(self) -> None:
        body = self._body()
        action = self.server.policy(self.command, self.path)
        self.server.did[action] += 1
        if action in _CODES:
            self._reply(int(action), [], _BODY.format(_CODES[action]).encode())
        elif action == "reset":
            self._reset()
        else:
            if action == "slow":
                time.sleep(SLOW_SECONDS)
            try:
                status, headers, content = self._forward(body)
            except (OSError, http.client.HTTPException):
                self._reset()
                return
            self.after()
            if action == "lost":
                self._reset()
            elif action == "cut":
                self._reply(status, headers, content, sent=len(content) // 2)
            else:
                self._reply(status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle

    def after(self) -> None:
        """Called when the store has done what was asked, before the client knows."""
        answered = getattr(self.server.policy, "after", None)
        if answered:
            answered(self.command, self.path)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("transfer-encoding", "content-length", "connection", "expect"):
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            reply = connection.getresponse()
            return reply.status, reply.getheaders(), reply.read()
        finally:
            connection.close()

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes, *, sent: int | None = None) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if self.command == "HEAD" and name.lower() == "content-length":
                length = value
            elif name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        if sent is not None:
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def proxied(upstream: int, policy: Policy) -> Iterator[Proxy]:
    """Yield a proxy that serves in threads of this process."""
    proxy = Proxy(upstream, policy)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
