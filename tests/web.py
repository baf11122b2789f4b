"""A web server on this machine that serves checkpoints, in good and in bad ways."""

import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ['Web', 'free_port', 'hostile_pickle', 'serve']


class Web:
    """What is served, and what was asked for.

    Attributes:
        files: Content by path.
        asked: Paths in the order of the requests.
        wait: Seconds until an answer goes on after its first half.
        cut: Bytes that are sent of a longer file before the connection ends.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.wait = 0.0
        self.cut: int | None = None
        self.address = ''

    def url(self, path: str) -> str:
        return f'{self.address}/{path}'


@contextmanager
def serve() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            path = self.path.partition('?')[0].lstrip('/')
            # Read first: who sees the request in `asked` may set another wait for the next one.
            wait = web.wait
            web.asked.append(path)
            content = web.files.get(path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half] if web.cut is None else content[: web.cut])
            if web.cut is None:
                time.sleep(wait)
                self.wfile.write(content[half:])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    web.address = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.05))
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    """A port of this machine on which nobody answers."""
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return one.getsockname()[1]


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.path}',)


def hostile_pickle(canary: Path) -> bytes:
    """A file that makes another one where it is unpickled freely."""
    return pickle.dumps({'state_dict': {'weight': _Touch(canary)}, 'meta': {}})
