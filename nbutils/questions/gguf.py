"""A GGUF file as an LLM: llama.cpp's own server, which this process starts, alone may ask, and ends."""

import hashlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from llama_index.llms.openai_like import OpenAILike
from pydantic import Field, PrivateAttr

from nbutils.core import UserError

_SERVE = """
import os, secrets, sys, xllamacpp
file, slots, context, key = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), secrets.token_urlsafe()
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx, params.cont_batching = file, slots, slots * context, True
params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
params.ui, params.endpoint_slots, params.enable_reasoning = False, False, 0
server = xllamacpp.Server(params)
print(server.listening_address, key, flush=True)
sys.stdin.read()  # until whoever started it stops it, or has ended in whatever way
os._exit(0)
"""


class LlamaCppServer:
    """A llama.cpp server for one file; `process` is None while it is not running."""

    def __init__(self, file: Path):
        self.file, self.process, self.address, self.key = file, None, "", ""

    def start(self, slots: int, context: int) -> None:
        """Load the file and listen on a free port of this machine alone, or raise a UserError with llama.cpp's last words.

        Args:
            slots: how many prompts are answered at a time (continuous batching).
            context: tokens of one prompt and its reply.
        """
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (open as long as the server runs)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(self.file), str(slots), str(context)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then stops the server
        )  # fmt: skip
        said = self.process.stdout.readline().split()
        if len(said) != 2:
            self.process.wait()
        self.check()
        self.address, self.key = said

    def check(self) -> None:
        """Raise a UserError if the server has ended by itself."""
        if self.process is None or self.process.poll() is None:
            return
        self.log.seek(0)
        lines = [line.strip() for line in self.log if line.strip()]
        causes = [line.partition(" E ")[2] for line in lines if " E " in line]  # the first; the others follow from it
        told = [*causes, *[line for line in lines if "rror" in line][-1:], *lines[-1:], "it said nothing"][0]
        code = self.process.poll() or 0
        if code < 0:
            told = f"{signal.Signals(-code).name}. SIGKILL is mostly too little memory, SIGILL too old a processor."
        self.stop()
        raise UserError(f"llama.cpp ended while it worked with {self.file}: {told[:300]}")

    def stop(self) -> None:
        """End the server and give its memory back."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.log.close()
            self.process = None


class GgufLLM(OpenAILike):
    """A LlamaIndex LLM that runs a GGUF file on this machine.

    The server starts with the first call (or `start`) and ends with `stop`, or with this process however that ends.

    Args:
        content: a digest of the file, so that another file of the same name is another model.
        context_window: tokens of one prompt and its reply.
    """

    content: str
    context_window: int = 4096
    is_chat_model: bool = True
    max_tokens: int | None = Field(default=512)  # small models repeat themselves without end
    _server: Any = PrivateAttr()

    def __init__(self, file: str | Path, **options):
        file = Path(file).expanduser()
        super().__init__(model=file.name, content=_digest(file), api_key="none", max_retries=0, **options)
        self._server = LlamaCppServer(file)

    def start(self, slots: int = 1, context: int = 0) -> None:
        """Start the server, unless it runs; `context` is overruled by a context_window of one's own."""
        self._server.check()
        if self._server.process is None:
            own = "context_window" in self.model_fields_set or not context
            self._server.start(slots, self.context_window if own else context)
            self._client = self._aclient = None

    def stop(self) -> None:
        """End the server."""
        self._server.stop()
        self._client = self._aclient = None

    def _get_credential_kwargs(self, is_async: bool = False) -> dict[str, Any]:
        client = httpx.AsyncClient if is_async else httpx.Client
        direct = client(trust_env=False)  # a proxy of the environment reaches no server of this machine
        address = {"base_url": f"{self._server.address}/v1", "api_key": self._server.key, "http_client": direct}
        return super()._get_credential_kwargs(is_async) | address

    def _get_client(self):
        self.start()
        return super()._get_client()

    def _get_aclient(self):
        self.start()
        return super()._get_aclient()


def _digest(file: Path) -> str:
    """Return a digest of a file's size, beginning and end; raises a UserError where it is no GGUF file."""
    try:
        with file.open("rb") as opened:
            head = opened.read(2**20)
            size = opened.seek(0, 2)
            opened.seek(max(size - 2**20, 0))
            tail = opened.read()
    except OSError as error:
        raise UserError(f"LLM is 'gguf:{file}', which cannot be read: {error.strerror}. Name a GGUF file.") from error
    if head[:4] != b"GGUF":
        raise UserError(f"LLM is 'gguf:{file}', which is no GGUF file: it does not begin with GGUF. Download it again.")
    return hashlib.sha256(f"{size}".encode() + head + tail).hexdigest()[:16]
