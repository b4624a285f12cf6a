"""A local HTTP server whose connections die, whose lengths lie, and which never ends: as tests want it."""

import functools
import http.server
import threading


class Server:
    """Sends `files` by path, `content` for every other; with ranges, unless told otherwise."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.files: dict[str, bytes] = {}
        self.die_after: list[int] = []  # bytes sent before each next connection dies
        self.ranges = True
        self.status = 200
        self.length: int | None = None  # what Content-Length says: by default the truth, below 0 nothing
        self.endless = False
        self.headers: dict[str, str] = {}
        self.redirects: dict[str, str] = {}  # path → address
        self.asked: list[str | None] = []
        self.paths: list[str] = []
        handler = functools.partial(_Handler, self)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, owner: Server, *arguments) -> None:
        self.owner = owner
        super().__init__(*arguments)

    def do_GET(self) -> None:
        owner, requested = self.owner, self.headers.get("Range")
        owner.asked.append(requested)
        owner.paths.append(self.path)
        if owner.status != 200:
            self.send_error(owner.status)
            return
        if self.path in owner.redirects:
            self.send_response(302)
            self.send_header("Location", owner.redirects[self.path])
            self.end_headers()
            return
        content = owner.files.get(self.path, owner.content)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested and owner.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        length = len(content) - start if owner.length is None else owner.length
        if length >= 0:
            self.send_header("Content-Length", str(length))
        for name, value in owner.headers.items():
            self.send_header(name, value)
        self.end_headers()
        rest = content[start:]
        self.wfile.write(rest[: owner.die_after.pop(0)] if owner.die_after else rest)
        try:
            while owner.endless:
                self.wfile.write(bytes(1 << 16))
        except OSError:  # the reader has had enough
            pass

    def log_message(self, *_: object) -> None:
        pass
