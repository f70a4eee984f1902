"""Nothing leaves the machine that no parameter or profile names, whatever keys the environment holds."""

import os
import socketserver
import subprocess
import sys
import threading

import pytest
from short_chain import two_texts

from nbutils.pipeline.parameters import read_profile, with_defaults

KEYS = ("OPENAI_API_KEY", "HF_TOKEN", "ANTHROPIC_API_KEY", "MISTRAL_API_KEY", "COHERE_API_KEY")


@pytest.fixture
def recorder():
    """A proxy that writes down the first line of every request, `CONNECT api.openai.com:443` or so, and refuses it."""
    asked = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline().decode(errors="replace").strip())
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def with_keys(proxy: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "OFFLINE" not in name and "proxy" not in name.lower()}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), proxy)
    return kept | proxies | dict.fromkeys(KEYS, "not-a-real-key-0123456789abcdef")


@pytest.mark.slow
def test_a_run_that_names_no_service_asks_none(recorder, tmp_path):
    proxy, asked = recorder
    texts = two_texts(tmp_path / "texts")
    done = subprocess.run(
        [sys.executable, "-m", "nbutils", "run", "-p", "TRAIN_FILES", texts / "train.txt",
         "-p", "VAL_FILES", texts / "val.txt", "-p", "CHUNK_SIZE", "64", "-p", "CHUNK_OVERLAP", "8", "-p", "EPOCHS", "1"],
        capture_output=True, text=True, env=with_keys(proxy),
    )  # fmt: skip
    assert asked == []
    assert done.returncode == 0, done.stderr


def test_the_offline_profile_is_the_defaults():
    defaults = with_defaults({})
    assert {name: defaults[name] for name in read_profile("offline")} == read_profile("offline")


def test_this_proxy_sees_what_goes_out(recorder):
    proxy, asked = recorder
    code = "import requests; requests.post('https://api.openai.com/v1/embeddings', json={})"
    subprocess.run([sys.executable, "-c", code], capture_output=True, env=with_keys(proxy))
    assert asked and all(line.startswith("CONNECT api.openai.com:443") for line in asked)
