import subprocess
import sys

import pytest


def nbutils(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "nbutils", *arguments], capture_output=True, text=True, **options)


def test_params_prints_every_parameter_of_every_notebook():
    done = nbutils("params")
    assert done.returncode == 0
    for word in ("01_build_corpus", "04_evaluate_models", "TRAIN_FILES (list)", "CHUNK_SIZE (int) = 256", "TOP_K"):
        assert word in done.stdout
    assert done.stdout.count("  RUN_NAME (str)") == 1
    size = done.stdout.partition("CHUNK_SIZE (int)")[2].partition("CHUNK_OVERLAP")[0]
    assert "--profile walkthrough: 1024" in size and "--profile offline" not in size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "CHUNKSIZE", "9"], ["CHUNKSIZE", "CHUNK_SIZE"]),
        (["-p", "CHUNK_SIZE", "nine"], ["CHUNK_SIZE", "int"]),
        (["--name", "../elsewhere"], ["RUN_NAME", "outputs/"]),
        (["--profile", "nope"], ["nope", "offline"]),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(arguments, words, tmp_path):
    done = nbutils("run", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_missing_file_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("NBUTILS_OUTPUTS", str(tmp_path / "outputs"))
    done = nbutils("run", "--name", "x", "-p", "TRAIN_FILES", "no_such_file.pdf")
    assert done.returncode == 2
    assert "TRAIN_FILES" in done.stderr and "no_such_file.pdf" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


def test_unwritable_outputs_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NBUTILS_OUTPUTS", str(tmp_path / "file"))
    done = nbutils("run")
    assert done.returncode == 2
    assert "NBUTILS_OUTPUTS" in done.stderr


def test_a_repeated_parameter_becomes_a_list():
    from nbutils.__main__ import collect

    assert collect([["A", "1"], ["A", "2"], ["B", "3"]]) == {"A": ["1", "2"], "B": "3"}
