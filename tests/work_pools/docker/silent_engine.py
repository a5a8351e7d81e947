"""A Docker engine that says only that it is there, on the unix socket that is its argument; stopped by SIGSTOP."""

from __future__ import annotations

import json
import socketserver
import sys
from http.server import BaseHTTPRequestHandler


class Engine(BaseHTTPRequestHandler):
    """Answers `GET /version` and `GET /_ping`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        version = {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "27.0"}
        body = b"OK" if self.path.endswith("_ping") else json.dumps(version).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a client"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


if __name__ == "__main__":
    with socketserver.ThreadingUnixStreamServer(sys.argv[1], Engine) as server:
        print("up", flush=True)
        server.serve_forever()
