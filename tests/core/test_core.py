import json
import os
import re
import resource
import subprocess
import sys
from collections import namedtuple

import pytest

from nbutils.core import UserError, atomic_path, content_hash, database_path, lock, write_atomic


def test_write_atomic_replaces_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_atomic(path, "one")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_atomic_path_replaces_a_folder(tmp_path):
    for name in ("a", "b"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["b"]
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_a_parent_that_is_a_file_is_a_user_error_that_names_the_path(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="below"):
        write_atomic(tmp_path / "file" / "below", "text")


def test_a_full_disk_is_a_user_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "old")
    script = (
        "import resource, signal, sys; from nbutils.core import write_atomic, UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_atomic(sys.argv[1], 'x' * 5000)\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_content_hash_tells_parts_apart():
    assert content_hash("a", "bc") != content_hash("ab", "c")
    assert content_hash("a") == content_hash("a")


@pytest.mark.parametrize("own", [None, "5"])
def test_openmp_yields_to_other_processes_unless_told_otherwise(own):
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": own} if own else {}
    code = "import nbutils, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [own or "1000", "False"]


@pytest.mark.parametrize("name", ["03_finetune_embedding", "04_evaluate_models"])
def test_the_notebooks_that_compute_import_nbutils_first(project, name):
    cells = json.loads((project / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert re.findall(r"^(?:import|from) (torch|sentence_transformers|nbutils)\b", code, re.M)[0] == "nbutils"


def test_each_machine_has_its_own_database_on_a_network_file_system(tmp_path, monkeypatch):
    import psutil

    part = namedtuple("part", "mountpoint fstype")
    local = [part("/", "ext4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [part(str(tmp_path), "nfs4"), *local])
    assert database_path(tmp_path / "cache", "x.sqlite").name not in ("x.sqlite", "")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: local)
    assert database_path(tmp_path / "cache", "x.sqlite") == (tmp_path / "cache" / "x.sqlite").resolve()


def test_an_old_folder_is_kept_where_the_block_makes_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("x")
    with pytest.raises(UserError, match="Nothing was written"), atomic_path(tmp_path / "model"):
        pass
    assert (tmp_path / "model" / "weights").read_text() == "x"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [ConnectionError("no route"), FileNotFoundError(2, "No such file", "input.pdf")])
def test_errors_of_the_block_pass_through_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as raised, atomic_path(tmp_path / "file"):
        raise error
    assert raised.value is error
    assert not list(tmp_path.iterdir())


def test_a_link_stays_a_link_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_atomic(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_links_that_lead_nowhere_are_named(tmp_path):
    (tmp_path / "outputs").symlink_to(tmp_path / "not mounted")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match=r"outputs is a link to .*not mounted, which is not there"):
        write_atomic(tmp_path / "outputs" / "run" / "run.json", "{}")
    with pytest.raises(UserError, match="outputs is a link"), lock(tmp_path / "outputs" / ".lock"):
        pass
    for path in ("loop", "loop/file"):
        with pytest.raises(UserError, match="loop is a link"):
            write_atomic(tmp_path / path, "x")


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    with pytest.raises(UserError, match="it is a folder"):
        write_atomic(tmp_path / "folder", "x")
    assert (tmp_path / "folder" / "kept").exists()


def test_a_full_disk_is_told_however_a_library_says_it(tmp_path):
    with pytest.raises(UserError, match=r"model: .*\(os error 28\). Free some space"), atomic_path(tmp_path / "model"):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert not list(tmp_path.iterdir())


def test_text_that_is_no_unicode_is_written_as_json_reads_it(tmp_path):
    write_atomic(tmp_path / "a.json", json.dumps("gesch\udce4ft", ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text()) == "gesch\udce4ft"


def test_hashes_differ_where_parts_differ_in_a_nul():
    assert content_hash("a\0b") != content_hash("a", "b")


def test_a_lock_keeps_others_out_and_says_so(tmp_path):
    other = lock(tmp_path / "x.lock", wait=0, busy="somebody is at it")
    with lock(tmp_path / "x.lock"), pytest.raises(UserError, match="somebody is at it"), other:
        pass
    with lock(tmp_path / "x.lock", wait=0):
        pass


def test_a_lock_that_cannot_be_taken_is_an_error_or_left_out(tmp_path):
    (tmp_path / "file").touch()
    with lock(tmp_path / "file" / "x.lock", optional=True):
        pass
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(UserError, match="Cannot write"), lock(tmp_path / "x.lock"):
        pass
