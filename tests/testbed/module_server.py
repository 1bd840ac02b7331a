"""A web server that a node gets its wasm modules from, and that a test can make refuse or stall."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worker.runtime.wasm import EXAMPLES


class ModuleServer:
    """Serves one module under every path; counts what was fetched; refuses or stalls when told to."""

    def __init__(self, module: bytes, host: str = "127.0.0.1") -> None:
        self.fetches: Counter[str] = Counter()
        self.is_serving = True
        self.go = threading.Event()
        self.go.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetches[self.path] += 1
                outer.go.wait(60.0)
                body = module if outer.is_serving else b""
                with contextlib.suppress(OSError):
                    self.send_response(200 if outer.is_serving else 404)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://{host}:{self._server.server_port}"

    def close(self) -> None:
        """End it."""
        self.go.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def module_server(host: str = "127.0.0.1") -> Iterator[ModuleServer]:
    """A server of the bundled service for the time of the block."""
    server = ModuleServer((EXAMPLES / "hello.wat").read_bytes(), host)
    try:
        yield server
    finally:
        server.close()
