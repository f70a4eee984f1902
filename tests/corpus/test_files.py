"""Finding files."""

import os
import re
import unicodedata
from pathlib import Path

import pytest

from nbutils.core import UserError
from nbutils.corpus.chunks import load_corpus, read_corpus, save_corpus
from nbutils.corpus.files import _files_hash, check_disjoint, find_files, resolve


def test_find_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.txt", "b/1.txt", "a.md", "b/c/3.md", "b/.hidden.txt", "b/.cache/4.txt", "b/image.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)

    def found(files):
        return [str(path) for path in find_files(files)]

    assert found("a.md") == found(Path("a.md")) == found(["a.md"]) == ["a.md"]
    assert found("b") == ["b/1.txt", "b/2.txt", "b/c/3.md"]
    assert found("b/*.txt") == ["b/1.txt", "b/2.txt"]
    assert found("**/*.md") == ["a.md", "b/c/3.md"]
    assert found(["b/2.txt", tmp_path / "b" / "2.txt", "b"]) == ["b/2.txt", "b/1.txt", "b/c/3.md"]
    assert found(["https://example.org/x.pdf"] * 2) == ["https://example.org/x.pdf"]


def test_what_runs_wrote_is_no_document_unless_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("NBUTILS_OUTPUTS", str(tmp_path / "outputs"))
    for name in ("a.txt", "outputs/mine/report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    assert [path.name for path in find_files([str(tmp_path), f"{tmp_path}/**"])] == ["a.txt"]
    assert [path.name for path in find_files(tmp_path / "outputs")] == ["report.html"]


def test_a_file_name_may_look_like_a_glob(tmp_path):
    (tmp_path / "report [final].txt").write_text("text")
    assert [path.name for path in find_files(tmp_path / "report [final].txt")] == ["report [final].txt"]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ([], "No files were given"),
        (None, "No files were given"),
        ([""], "file name is empty"),
        ("ftp://x.org/a.pdf", "only http"),
    ],
)
def test_bad_names(files, says):
    with pytest.raises(UserError, match=says):
        load_corpus(files)


def test_check_disjoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {"a.txt": "one", "b.txt": "two", "copy of a.txt": "one", "val/c.txt": "three"}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    Path("link.txt").symlink_to("b.txt")
    check_disjoint("a.txt", [])
    check_disjoint("a.txt", ["b.txt", "val"])
    check_disjoint(["https://example.org/a.pdf"], ["https://example.org/b.pdf", "a.txt"])
    for train, val, names in [
        ("a.txt", tmp_path / "a.txt", ["a.txt"]),
        ("a.txt", "*.txt", ["a.txt"]),
        ("a.txt", "copy of a.txt", ["a.txt and copy of a.txt"]),
        (["val/c.txt", "b.txt"], "link.txt", ["b.txt and link.txt"]),
        (["a.txt", "val"], ["b.txt", "val/c.txt"], ["val/c.txt"]),
        ("https://example.org/a.pdf", "https://example.org/a.pdf", ["https://example.org/a.pdf"]),
    ]:
        with pytest.raises(UserError, match="The same file is given for training and for validation") as error:
            check_disjoint(train, val)
        assert all(name in str(error.value) for name in names)


def test_hidden_files_lock_files_links_to_nothing_and_other_types_are_passed_over_and_told(tmp_path):
    for name in ("a.txt", ".hidden.txt", "~$plan.docx", "photo.png"):
        (tmp_path / name).write_text("text")
    (tmp_path / "gone.pdf").symlink_to("nowhere.pdf")
    passed_over = []
    assert [path.name for path in find_files(tmp_path, passed_over=passed_over)] == ["a.txt"]
    assert sorted(passed_over) == [".hidden.txt", "gone.pdf", "photo.png", "~$plan.docx"]
    before = _files_hash(tmp_path)
    (tmp_path / "gone.pdf").unlink()
    assert _files_hash(tmp_path) == before


def test_linked_folders_are_followed_and_loops_are_not(tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("text")
    (tmp_path / "shelf" / "2023").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "shelf")
    assert [path.name for path in find_files(tmp_path / "shelf")] == ["a.txt"]


def test_two_stars_do_not_follow_links_in_circles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text("text")
        for up in range(3):
            (tmp_path / name / f"up{up}").symlink_to(tmp_path)
    assert list(map(str, find_files("**/*.txt"))) == ["a/1.txt", "b/1.txt", "c/1.txt"]


@pytest.mark.parametrize("pattern", ["reports [2023]/*.txt", "reports [2023]/**/*.txt", "reports [[]2023]/1.txt"])
def test_brackets_in_a_folder_s_name_are_no_pattern(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports [2023]").mkdir()
    (tmp_path / "reports [2023]" / "1.txt").write_text("text")
    assert list(map(str, find_files(pattern))) == ["reports [2023]/1.txt"]


def test_a_glob_finds_names_in_either_unicode_form(tmp_path):
    folder = tmp_path / unicodedata.normalize("NFD", "Übersicht")
    folder.mkdir()
    (folder / "1.txt").write_text("text")
    assert len(find_files(tmp_path / unicodedata.normalize("NFC", "Ü*") / "*.txt")) == 1


def test_a_bare_pattern_never_means_the_project_s_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="matches"):
        find_files("**/*.pdf")


def test_a_link_to_nothing_and_an_unknown_home_are_no_files(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    for name in (tmp_path / "a.txt", "~nobody-of-that-name/a.txt"):
        with pytest.raises(UserError, match="There is no file or folder"):
            find_files(name)


def test_a_word_processor_s_lock_file_changes_no_digest(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    before = _files_hash(tmp_path)
    (tmp_path / "~$a.docx").write_text("lock")
    (tmp_path / ".DS_Store").write_text("view")
    assert _files_hash(tmp_path) == before


@pytest.mark.parametrize("pattern", ["data/**.pdf", "a**/b.txt"])
def test_two_stars_inside_a_name_are_refused(pattern):
    with pytest.raises(UserError, match=re.escape(f"In {pattern}, '**' must stand alone")):
        find_files(pattern)


@pytest.mark.parametrize("value", ["", "  ", ["a.txt", ""]])
def test_an_empty_name_is_never_the_working_directory(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match="file name is empty"):
        find_files(value)


def test_a_name_is_found_in_either_unicode_form(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "Übersicht.txt")).write_text("text")
    found = find_files(tmp_path / unicodedata.normalize("NFC", "Übersicht.txt"))
    assert len(found) == 1 and load_corpus(found)[0].metadata["file_name"] == "Übersicht.txt"


def test_a_name_that_is_no_utf_8_is_made_readable(tmp_path):
    path = tmp_path / os.fsdecode(b"gesch\xe4ft.txt")
    path.write_text("The ferry costs nine crowns.")
    save_corpus(load_corpus(path), tmp_path / "corpus.json")
    assert read_corpus(tmp_path / "corpus.json")[0].metadata["file_name"] == "geschäft.txt"


def test_names_are_resolved_here_then_beside_the_plan_then_in_the_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plans").mkdir()
    for name in ("here.txt", "plans/there.txt", "plans/here.txt"):
        (tmp_path / name).write_text(name)
    assert resolve("there.txt", base="plans") == str(Path("plans/there.txt"))
    assert resolve("here.txt") == "here.txt" and resolve("nowhere.txt") == "nowhere.txt"
    assert Path(resolve("data/sample/norvane_2024.pdf")).is_file()
    assert resolve("https://example.org/a.pdf") == "https://example.org/a.pdf"


@pytest.mark.parametrize("pattern", ["d", "d/*/*.txt", "d/**/*.txt", "d/a/1.txt"])
def test_the_digest_follows_names_and_contents_behind_a_pattern(tmp_path, monkeypatch, pattern):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "d" / "a" / "1.txt"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    digests = [_files_hash(pattern)]
    assert digests[0] == _files_hash([pattern])[: len(digests[0])] == _files_hash(pattern)
    file.write_text("two")
    digests.append(_files_hash(pattern))
    if pattern != "d/a/1.txt":
        (tmp_path / "d" / "a" / "2.txt").write_text("more")
        digests.append(_files_hash(pattern))
        file.rename(file.with_name("0.txt"))
        digests.append(_files_hash(pattern))
    assert len(set(digests)) == len(digests)


def test_a_glob_finds_suffixes_in_capitals(tmp_path):
    (tmp_path / "A.PDF").write_text("text")
    assert [path.name for path in find_files(tmp_path / "*.pdf")] == ["A.PDF"]


def test_a_hidden_file_that_is_named_is_read(tmp_path):
    (tmp_path / ".notes.txt").write_text("text")
    assert [path.name for path in find_files(tmp_path / ".notes.txt")] == [".notes.txt"]


def test_addresses_that_differ_after_the_hash_are_one_document():
    assert find_files(["https://x.org/a.pdf#page=3", "https://x.org/a.pdf"]) == ["https://x.org/a.pdf"]
