"""From files to chunks, and chunks on disk."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from documents import draw_pdf, sentences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeRelationship

from nbutils.core import UserError
from nbutils.corpus.chunks import load_corpus, load_documents, read_corpus, save_corpus
from nbutils.corpus.read import clean


def test_prints_what_the_walkthrough_prints(report, capsys):
    nodes = load_corpus([str(report)], verbose=True)
    assert capsys.readouterr().out == f"Loading files ['report.pdf']\nLoaded 10 docs\nParsed {len(nodes)} nodes\n"
    load_corpus([str(report)])
    assert capsys.readouterr().out == ""


def test_files_of_the_same_name_are_told_apart(tmp_path):
    for folder in ("2023/uk", "2024/uk"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "report.txt").write_text(folder)
    (tmp_path / "other.txt").write_text("other")
    names = [node.metadata["file_name"] for node in load_corpus(tmp_path)]
    assert names == ["2023/uk/report.txt", "2024/uk/report.txt", "other.txt"]


def test_chunk_size_is_the_size_of_the_text(tmp_path):
    path = tmp_path / f"{'long-name-' * 20}.txt"
    path.write_text(sentences(400))
    splitter = SentenceSplitter(chunk_size=128, chunk_overlap=25)
    nodes = load_corpus(path, chunk_size=128)
    assert [node.text for node in nodes] == splitter.split_text(sentences(400))
    sizes = [len(splitter._tokenizer(node.text)) for node in nodes]
    assert max(sizes) <= 128 and sorted(sizes)[len(sizes) // 2] > 90
    assert nodes[0].get_content(MetadataMode.EMBED) == nodes[0].text


@pytest.mark.parametrize(("chunk_size", "overlap"), [(1024, 200), (512, 102), (256, 51)])
def test_the_overlap_is_a_fifth_of_the_chunk_at_most_200(report, chunk_size, overlap):
    assert load_corpus(report, chunk_size=chunk_size) == load_corpus(
        report, chunk_size=chunk_size, chunk_overlap=overlap
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"chunk_size": 5}, "chunk_size is 5"),
        ({"chunk_size": 100, "chunk_overlap": 100}, "chunk_overlap is 100"),
        ({"chunk_overlap": -1}, "chunk_overlap is -1"),
    ],
)
def test_sizes_out_of_range(report, options, says):
    with pytest.raises(UserError, match=says):
        load_corpus(report, **options)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("aB3 .,\n;é漢😀-") | st.characters(codec="utf-8"), min_size=1, max_size=600),
    chunk_size=st.integers(16, 64),
)
def test_chunks_hold_all_text(tmp_path, text, chunk_size):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    whole = clean(path.read_text(encoding="utf-8-sig")) if b"\0" not in path.read_bytes() else ""
    if not whole:
        with pytest.raises(UserError):
            load_corpus(path)
        return
    nodes = load_corpus(path, chunk_size=chunk_size, chunk_overlap=0)
    assert "".join("".join(node.text.split()) for node in nodes) == "".join(whole.split())
    assert all(node.text.strip() == node.text != "" for node in nodes)
    assert len({node.id_ for node in nodes}) == len(nodes)


@pytest.mark.slow
def test_long_text_without_spaces(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 200_000 + " " + "0123456789abcdef" * 10_000)
    assert sum(len(node.text) for node in load_corpus(tmp_path, chunk_size=256, chunk_overlap=0)) == 360_001


@pytest.mark.slow
def test_ids_come_from_the_text_alone(tmp_path, report):
    other = tmp_path / "elsewhere" / "renamed.pdf"
    other.parent.mkdir()
    other.write_bytes(report.read_bytes())
    here = [node.id_ for node in load_corpus(report)]
    assert here == [node.id_ for node in load_corpus(other)]
    code = f"from nbutils.corpus.chunks import load_corpus; print([n.id_ for n in load_corpus({str(report)!r})])"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == str(here)


def test_equal_chunks_have_distinct_ids(tmp_path):
    (tmp_path / "a.pdf").write_bytes(draw_pdf("Intentionally blank", "Something", "Intentionally blank"))
    nodes = load_corpus(tmp_path)
    assert nodes[0].text == nodes[2].text and len({node.id_ for node in nodes}) == 3
    (tmp_path / "b.pdf").write_bytes(draw_pdf("Intentionally blank"))
    assert load_corpus(tmp_path / "b.pdf")[0].id_ == nodes[0].id_


def test_relationships(report):
    nodes = load_corpus(report, chunk_size=128)
    for first, second in itertools.pairwise(nodes):
        same_page = first.metadata["page"] == second.metadata["page"]
        after = first.relationships.get(NodeRelationship.NEXT)
        assert (after is not None and after.node_id == second.id_) == same_page
        assert (NodeRelationship.PREVIOUS in second.relationships) == same_page
    assert {node.ref_doc_id for node in nodes} == {document.id_ for document in load_documents(report)}


def test_saved_corpus_round_trip(tmp_path, report):
    nodes = load_corpus(report, chunk_size=256)
    save_corpus(nodes, tmp_path / "out" / "corpus.json")
    save_corpus(load_corpus(report, chunk_size=256), tmp_path / "again.json")
    assert (tmp_path / "out" / "corpus.json").read_bytes() == (tmp_path / "again.json").read_bytes()
    assert read_corpus(tmp_path / "again.json") == nodes
    assert set(json.loads((tmp_path / "again.json").read_text())[0]) == {"id", "text", "metadata"}
    assert str(tmp_path) not in (tmp_path / "again.json").read_text()


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '[{"id": "a"}]', "[1]", '[{"id": "a", "text": 1, "metadata": 2}]']
)
def test_read_corpus_refuses_what_is_none(tmp_path, content):
    if content is not None:
        (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(UserError, match=r"corpus\.json.*01_build_corpus"):
        read_corpus(tmp_path / "corpus.json")


def mixed_folder(folder: Path) -> None:
    (folder / "good.txt").write_text("The ferry costs nine crowns.")
    (folder / "blank.txt").write_text(" ")
    (folder / "cut.pdf").write_bytes(draw_pdf("A page")[:400])


def test_unreadable_files_among_others_are_left_out_and_told(tmp_path):
    mixed_folder(tmp_path)
    left_out = []
    with pytest.warns(UserWarning, match=r"2 of 3 files were left out: .*blank\.txt.*cut\.pdf"):
        nodes = load_corpus(tmp_path, left_out=left_out)
    assert [node.text for node in nodes] == ["The ferry costs nine crowns."] and len(left_out) == 2


def test_every_unreadable_file_is_told_at_once_where_one_is_an_error(tmp_path):
    mixed_folder(tmp_path)
    with pytest.raises(UserError, match=r"2 files cannot be read.*blank\.txt.*cut\.pdf"):
        load_corpus(tmp_path, on_unreadable="fail")
    (tmp_path / "good.txt").unlink()
    with pytest.raises(UserError, match="2 files cannot be read"):
        load_corpus(tmp_path)
    with pytest.raises(UserError, match="on_unreadable is 'stop'; use 'skip' or 'fail'"):
        load_corpus(tmp_path, on_unreadable="stop")


@pytest.mark.slow
def test_data_of_dependencies_is_not_looked_for_elsewhere(tmp_path):
    (tmp_path / "a.txt").write_text("The ferry costs nine crowns.")
    code = f"from nbutils import load_corpus; print(len(load_corpus({str(tmp_path / 'a.txt')!r})))"
    environment = os.environ | dict.fromkeys(["TIKTOKEN_CACHE_DIR", "NLTK_DATA"], str(tmp_path / "none"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "1", done.stderr[-500:]
    assert not (tmp_path / "none").exists()


def test_a_header_is_embedded_and_no_part_of_the_text(tmp_path):
    path = tmp_path / "10-K_2022 acme.txt"
    path.write_text("Cash and credit lines. " * 60)
    plain, headed = load_corpus(path, chunk_size=64), load_corpus(path, chunk_size=64, header=["file", "title"])
    assert [(node.id_, node.text) for node in plain] == [(node.id_, node.text) for node in headed]
    assert [node.get_content(MetadataMode.EMBED) for node in plain] == [node.text for node in plain]
    save_corpus(headed, tmp_path / "corpus.json")
    for node in headed + read_corpus(tmp_path / "corpus.json"):
        assert node.get_content(MetadataMode.EMBED) == f"10-K 2022 acme\n{node.text}"
        assert node.get_content(MetadataMode.NONE) == node.get_content() == node.text
    assert load_corpus(path, chunk_size=64, header="none") == load_corpus(path, chunk_size=64, header="") == plain
    with pytest.raises(UserError, match="CHUNK_HEADER holds 'chapter'"):
        load_corpus(path, header=["file", "chapter"])


def test_files_that_were_passed_over_are_told(tmp_path):
    for name in ("a.txt", ".hidden.txt", "photo.png", "~$plan.docx"):
        (tmp_path / name).write_text("A ferry.")
    passed_over: list[str] = []
    load_corpus(tmp_path, passed_over=passed_over)
    assert sorted(passed_over) == [".hidden.txt", "photo.png", "~$plan.docx"]
