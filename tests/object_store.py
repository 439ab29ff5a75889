"""An object store on loopback: moto's S3 server as a process, and before it a proxy that puts in faults.

pyarrow ── proxy (a thread here) ── moto (a process)
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pyarrow import fs

KEY, SECRET = "AKIDSTREAMGDTESTS", "wJalr5ecretKept0utOfEveryLine"
TOKEN = "t0kenKeptOutOfEveryLine"

#: What the proxy does in place of handing on: "reset", "cut" (half an answer), "slow", "503", "refused", "expired".
Fault = str | None

_ERRORS = {
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "refused": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}


def always(fault: Fault) -> Callable[[int, str], Fault]:
    """The same for every request."""
    return at(range(1, sys.maxsize), fault)


def at(numbers: range, fault: Fault) -> Callable[[int, str], Fault]:
    """For the requests of these numbers, from 1."""
    return lambda number, _: fault if number in numbers else None


def one_in(number: int) -> Callable[[int, str], Fault]:
    """Every ``number``-th request fails, and so do those that ask again for the same, three times: the SDK's retries
    do not outlast it."""
    failing: dict[str, int] = {}

    def fault(count: int, what: str) -> Fault:
        if count % number == 0:
            failing.setdefault(what, 3)
        left = failing.get(what, 0)
        if left:
            failing[what] = left - 1
            return ("reset", "503", "cut", "503")[(count + left) % 4]
        failing.pop(what, None)
        return None

    return fault


class ObjectStore:
    """The store as the tests see it.

    Attributes
    ----------
    fault : callable
        ``(number of the request; method, path and range) -> Fault``; asked for each request.
    requests : list of str
        Method, path and range of each request since :meth:`calm`.
    failed : int
        Requests that a fault was put into since then.
    """

    def __init__(self, server_port: int):
        self._server_port = server_port
        self._lock = threading.Lock()
        self.slow_s = 4.0
        self.calm()
        self.proxy = _Proxy(self)

    def calm(self) -> None:
        """No faults, and nothing counted."""
        self.fault: Callable[[int, str], Fault] = always(None)
        self.requests: list[str] = []
        self.failed = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.proxy.server_port}"

    @property
    def options(self) -> str:
        """The query of a URI that leads here."""
        return f"?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    def uri(self, path: str, secret: bool = True) -> str:
        return f"s3://{f'{KEY}:{SECRET}@' if secret else ''}{path}{self.options}"

    def filesystem(self) -> fs.S3FileSystem:
        """Straight to the server, past the proxy."""
        return fs.S3FileSystem(
            access_key=KEY, secret_key=SECRET, region="us-east-1", scheme="http",
            endpoint_override=f"127.0.0.1:{self._server_port}", allow_bucket_creation=True,
        )  # fmt: skip

    def upload(self, folder: Path, path: str) -> None:
        """Put a local folder, or a file, where ``path`` (bucket and key) says."""
        store = self.filesystem()
        store.create_dir(path.split("/")[0])
        for file in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            if file.is_file():
                key = f"{path}/{file.relative_to(folder).as_posix()}" if folder.is_dir() else path
                with store.open_output_stream(key) as stream:
                    stream.write(file.read_bytes())

    def next_fault(self, what: str) -> Fault:
        with self._lock:
            self.requests.append(what)
            fault = self.fault(len(self.requests), what)
            self.failed += fault is not None
            return fault

    def server(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=30)


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, store: ObjectStore):
        self.store = store
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _handle(self) -> None:
        store = self.server.store
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = store.next_fault(f"{self.command} {self.path} {self.headers.get('Range', '')}")
        if fault == "reset":
            return self._reset()
        if fault in _ERRORS:
            status, code, message = _ERRORS[fault]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            return self._answer(status, [("Content-Type", "application/xml")], text.encode())
        if fault == "slow":
            time.sleep(store.slow_s)
        connection = store.server()
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return self._answer(answer.status, answer.getheaders(), content, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        stated = {name.lower(): value for name, value in headers}
        length = stated.get("content-length", "0") if self.command == "HEAD" and status == 200 else str(len(body))
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._reset()

    def _reset(self) -> None:
        """Close at once with RST, as a broken network does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


@contextmanager
def _moto(log: Path) -> Iterator[int]:
    """A moto server as a process of its own, and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline_s = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline_s:
                pytest.fail(f"moto does not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """A store without buckets."""
    pytest.importorskip("moto.server")
    with _moto(folder / "moto.log") as port:
        store = ObjectStore(port)
        thread = threading.Thread(target=store.proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield store
        finally:
            store.proxy.shutdown()
            store.proxy.server_close()


def environment(**more: str) -> dict[str, str]:
    """That of a process with the store's credentials in it, and nothing of the machine's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return {**kept, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, **more}
