"""A local HTTP server that gives a file, and can misbehave in every way that servers do."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves `files` by name; `faults` are taken one a request, then it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.always: str | None = None
        self.asked: list[str | None] = []  # the Range of every request
        self.tag: str | None = '"1"'

    def __enter__(self) -> "Server":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        fault = server.faults.pop(0) if server.faults else server.always
        content = server.files.get(self.path[1:])
        if content is None:
            return self.send_error(404)
        if fault in ("403", "500", "503"):
            return self.send_error(int(fault))
        if fault == "closes":
            return self.connection.close()
        if fault == "page":
            content, asked = b"<html>please log in</html>", None
        if fault == "wrong":
            content = bytes(byte ^ 1 for byte in content)
        begin = int(asked[6:-1]) if asked else 0
        fresh = self.headers.get("If-Range", server.tag) == server.tag
        if fault == "no ranges" or not fresh:
            begin, asked = 0, None
        if begin >= len(content) and asked:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        said = begin + 5 if fault == "another range" else begin
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {said}-{len(content) - 1}/{len(content)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        rest = content[begin:]
        length = len(rest) + {"says more": 1000, "says less": -min(100, len(rest))}.get(fault, 0)
        if fault != "no length":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "breaks":
            rest = rest[: max(1, len(rest) // 2)]
        self.wfile.write(rest[:length])
        self.wfile.flush()
        self.close_connection = True
