"""Training and validation apart."""

import random
import re

import pytest
from documents import draw_pdf, sentences
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.core import UserError
from nbutils.corpus.chunks import _nodes, load_corpus
from nbutils.corpus.split import split_corpus


def test_splitter_options_pass_through(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(sentences(8, seed) for seed in range(20)))
    nodes = load_corpus(tmp_path, chunk_size=256, chunk_overlap=0, paragraph_separator="\n")
    assert all(re.match(r"Item\d+x0 ", node.text) for node in nodes)


def pages_of(nodes) -> set:
    return {(node.metadata["file_name"], node.metadata.get("page")) for node in nodes}


@settings(max_examples=100, deadline=None)
@given(
    chunks=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=30), min_size=1, max_size=4),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_split_shares_no_page_and_no_text(chunks, share, seed):
    nodes = _nodes(
        (f"text {number % 50}", {"file_name": f"{file}.pdf", "page_label": str(page), "page": page})
        for file, pages in enumerate(chunks)
        for page, count in enumerate(pages, 1)
        for number in [random.Random(f"{file} {page} {i}").randrange(10**6) for i in range(count)]
    )
    try:
        train, validation = split_corpus(nodes, share, seed=seed)
    except UserError:
        assert len(pages_of(nodes)) < 2 or len({node.text for node in nodes}) < len(nodes)
        return
    assert train and validation
    assert len(pages_of(nodes)) == 1 or not pages_of(train) & pages_of(validation)
    assert not {node.text for node in train} & {node.text for node in validation}
    order = {node.id_: i for i, node in enumerate(nodes)}
    assert [order[n.id_] for n in train] == sorted(order[n.id_] for n in train)
    assert [order[n.id_] for n in validation] == sorted(order[n.id_] for n in validation)
    left_out = [node for node in nodes if node not in train and node not in validation]
    assert all(node.text in {v.text for v in validation} for node in left_out)
    assert split_corpus(nodes, share, seed=seed) == (train, validation)


def test_split_share_and_blocks(report):
    nodes = load_corpus(report, chunk_size=128)
    parts = [split_corpus(nodes, 0.3, seed=seed) for seed in range(10)]
    assert all(0.2 <= len(validation) / len(nodes) <= 0.4 for _, validation in parts)
    assert all(len(train) + len(validation) == len(nodes) for train, validation in parts)
    assert len({frozenset(pages_of(validation)) for _, validation in parts}) > 3


def test_split_of_a_text_without_pages_leaves_no_shared_sentence(tmp_path):
    (tmp_path / "a.txt").write_text(sentences(600))
    nodes = load_corpus(tmp_path, chunk_size=128, chunk_overlap=60)
    for seed in range(5):
        train, validation = split_corpus(nodes, 0.3, seed=seed)
        items = [set(re.findall(r"Item\w+", " ".join(node.text for node in part))) for part in (train, validation)]
        assert not items[0] & items[1]
        assert len(train) > 0.5 * len(nodes) and len(validation) > 0.2 * len(nodes)


@pytest.mark.parametrize("share", [0, 1, -0.2, 30, float("nan")])
def test_split_refuses_odd_shares(report, share):
    with pytest.raises(UserError, match="validation_share"):
        split_corpus(load_corpus(report), share)


def test_a_single_page_is_split_by_its_chunks(tmp_path):
    (tmp_path / "a.pdf").write_bytes(draw_pdf(sentences(60)))
    nodes = load_corpus(tmp_path, chunk_size=64, chunk_overlap=20)
    train, validation = split_corpus(nodes)
    assert min(len(train), len(validation)) >= 2 and len(train) + len(validation) >= len(nodes) - 4
    items = [set(re.findall(r"Item\w+", " ".join(node.text for node in part))) for part in (train, validation)]
    assert not items[0] & items[1]


@pytest.mark.parametrize("seed", range(6))
def test_a_long_page_beside_a_short_one_is_trained_on(tmp_path, seed):
    (tmp_path / "a.pdf").write_bytes(draw_pdf(sentences(60), sentences(6)))
    train, validation = split_corpus(load_corpus(tmp_path, chunk_size=64), seed=seed)
    assert pages_of(train) == {("a.pdf", 1)} and pages_of(validation) == {("a.pdf", 2)}


def test_split_refuses_a_single_chunk(tmp_path):
    (tmp_path / "a.pdf").write_bytes(draw_pdf("One sentence alone."))
    with pytest.raises(UserError, match=r"1 chunk\(s\) of text, too few"):
        split_corpus(load_corpus(tmp_path))
