"""Lengths of chunks."""

import pytest

from nbutils.corpus.chunks import load_corpus
from nbutils.corpus.lengths import chunk_lengths, corpus_summary


@pytest.fixture(scope="module")
def tokenizer():
    from nbutils.models.names import load_tokenizer, packaged_model

    if packaged_model() is None:
        pytest.skip("the packaged model is not installed")
    return load_tokenizer("all-MiniLM-L6-v2")


def test_corpus_summary_counts_what_truncation_cuts(tmp_path, report, tokenizer):
    (tmp_path / "notes.md").write_text("A short note.")
    nodes = load_corpus(tmp_path)
    table = corpus_summary(nodes, "all-MiniLM-L6-v2", 128)
    kept = sum(len(ids) - 2 for ids in tokenizer([n.text for n in nodes], truncation=True, max_length=128)["input_ids"])
    row = table.loc["all"]
    assert list(table.index) == ["notes.md", "report.pdf", "all"]
    assert row["tokens"] == chunk_lengths(nodes, tokenizer).sum() == sum(len(tokenizer.tokenize(n.text)) for n in nodes)
    assert row["tokens"] - row["tokens_unseen"] == kept
    assert row["share_unseen"] == pytest.approx(1 - kept / row["tokens"])
    assert (row["chunks"], row["pages"], row["words"]) == (len(nodes), 11, sum(len(n.text.split()) for n in nodes))
    assert table.loc["notes.md", "chunks_cut"] == 0 and table.loc["report.pdf", "chunks_cut"] > 0
    assert corpus_summary(nodes, tokenizer, 100_000).loc["all", "share_unseen"] == 0


def test_chunk_lengths_of_nothing(tokenizer):
    assert len(chunk_lengths([], tokenizer)) == 0
    assert corpus_summary([], tokenizer, 256).loc["all", "chunks"] == 0
