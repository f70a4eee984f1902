"""A proxy that sees what leaves the machine, and an environment that sends everything through it with keys at hand."""

import contextlib
import os
import socketserver
import threading
from collections.abc import Iterator

KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "ANTHROPIC_API_KEY", "MISTRAL_API_KEY", "COHERE_API_KEY")


@contextlib.contextmanager
def recording_proxy() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a proxy, and a list to which it adds each request's first line, `CONNECT api.openai.com:443` or so.

    It refuses every request.
    """
    asked: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline().decode(errors="replace").strip())
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def with_keys(proxy: str) -> dict[str, str]:
    """Return this process's environment with that proxy and with keys of services."""
    kept = {name: value for name, value in os.environ.items() if "OFFLINE" not in name and "proxy" not in name.lower()}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), proxy)
    return kept | proxies | dict.fromkeys(KEYS, "not-a-real-key-0123456789abcdef")
