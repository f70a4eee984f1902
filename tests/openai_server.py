"""A real HTTP server that speaks enough of the OpenAI protocol, and misbehaves on demand."""

import argparse
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """How one call goes wrong: an HTTP status, a dropped connection, a late reply, a text or a whole body of one's own."""

    status: int = 200
    message: str = "told to fail"
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: bool = False
    delay: float = 0.0
    text: str | None = None
    finish_reason: str = "stop"
    raw: dict | bytes | None = None


def default_reply(prompt: str) -> str:
    """Two questions that depend on the prompt alone."""
    mark = hashlib.sha256(prompt.encode()).hexdigest()
    found = re.findall(r"[^\W\d_]{4,}", prompt.split("---------------------")[1]) if "-----" in prompt else []
    words = " ".join(found[:3]) or "nothing"
    return f"1. What is said about {words} {mark[:6]}?\n2. How many {words} were there in {mark[6:12]}?"


class OpenAIServer:
    """Serves /v1/chat/completions from threads and counts what it is asked.

    Args:
        delay: seconds a reply takes.
        fault: called with (number of the call, prompt), returns a `Fault` or None.
        usage: whether replies carry token counts.
        fault_of_body: called with what a client sent, returns a `Fault` or None.
    """

    def __init__(
        self,
        delay: float = 0.0,
        fault: Callable[[int, str], Fault | None] | None = None,
        usage: bool = True,
        fault_of_body: Callable[[dict], Fault | None] = lambda body: None,
        port: int = 0,
    ):
        self.delay, self.fault, self.usage = delay, fault or (lambda call, prompt: None), usage
        self.calls, self.answered, self.times, self.bodies = 0, Counter(), [], []
        self.most_at_once, self._now, self._lock = 0, 0, threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                self.send_json(200, {"calls": owner.calls, "answered": dict(owner.answered)})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                prompt = body["messages"][-1]["content"]
                with owner._lock:
                    owner.calls += 1
                    owner.times.append(time.monotonic())
                    owner.bodies.append(body)
                    number = owner.calls
                    owner._now += 1
                    owner.most_at_once = max(owner.most_at_once, owner._now)
                try:
                    self.reply(owner.fault(number, prompt) or fault_of_body(body) or Fault(), prompt, body)
                finally:
                    with owner._lock:
                        owner._now -= 1

            def reply(self, fault, prompt, body):
                time.sleep(fault.delay or owner.delay)
                if fault.drop:
                    self.close_connection = True
                    with contextlib.suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if fault.status != 200 and fault.raw is None:
                    error = {"message": fault.message, "type": "test", "code": fault.code}
                    self.send_json(fault.status, {"error": error}, fault.headers)
                    return
                if fault.raw is not None:
                    self.send_json(fault.status, fault.raw)
                    return
                text = default_reply(prompt) if fault.text is None else fault.text
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": fault.finish_reason,
                }
                answer = {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": body["model"],
                    "choices": [choice],
                }
                if owner.usage:
                    counts = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
                    answer["usage"] = counts | {"total_tokens": sum(counts.values())}
                self.send_json(200, answer)
                if fault.text is None:
                    with owner._lock:
                        owner.answered[hashlib.sha256(prompt.encode()).hexdigest()[:16]] += 1

            def send_json(self, status, value, headers=None):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, content in (headers or {}).items():
                        self.send_header(name, content)
                    self.send_header("Content-Type", "text/html" if data is value else "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def start(self) -> "OpenAIServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def settle(self) -> None:
        """Wait until no call is being answered."""
        while self._now:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def serving(**options) -> Iterator[OpenAIServer]:
    server = OpenAIServer(**options).start()
    try:
        yield server
    finally:
        server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.5)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    with serving(delay=arguments.delay, port=arguments.port) as running:
        print(running.url, flush=True)
        threading.Event().wait()
