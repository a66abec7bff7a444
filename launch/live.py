"""A job watched while it runs: a line a rank on the screen, and Prometheus' text on the loopback."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from distgrad.errors import LaunchError
from distgrad.profiler.status import prometheus, read_status, status_lines

from .logs import Console

__all__ = ["metrics", "watching"]

_SHOW_S = 1.0
_SAY_S = 10.0  # where there is no screen to draw on


@contextlib.contextmanager
def watching(folder: Path, console: Console) -> Iterator[None]:
    """Show a line a rank, drawn anew each second; without a screen every ten seconds.

    Args:
        folder: where the ranks leave their status.
        console: what shows it.
    """
    stop = threading.Event()

    def look() -> None:
        said_s = time.monotonic()
        while not stop.wait(_SHOW_S):
            console.status = status_lines(read_status(folder))
            if console.live or time.monotonic() >= said_s + _SAY_S:
                said_s = time.monotonic()
                console.draws = True
                console.tell()

    thread = threading.Thread(target=look, name="distgrad watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        console.status = []
        console.clear()
        for line in status_lines(read_status(folder)):
            console.say(line)


def _handler(text: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text().encode()
            known = self.path.split("?")[0] in ("/metrics", "/")
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body) if known else 0))
            self.end_headers()
            if known:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return  # a request a few seconds is nothing to tell of

    return Handler


@contextlib.contextmanager
def metrics(folder: Path, port: int) -> Iterator[None]:
    """Answer ``GET /metrics`` on 127.0.0.1.

    Args:
        folder: where the ranks leave their status.
        port: of the loopback interface.

    Raises:
        LaunchError: the port is taken.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(lambda: prometheus(read_status(folder))))
    except OSError as error:
        raise LaunchError(f"launch: --metrics-port {port}: {error.strerror}; give another one") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="distgrad metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
