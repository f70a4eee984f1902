import numpy as np
import pytest

from nbutils.models.hybrid import NamedDocuments, fuse
from nbutils.models.search import Ranking


def test_fusion_is_the_formula():
    dense = Ranking(np.array([[0, 1, 2]]), np.array([[3.0, 2, 1]]))
    lexical = Ranking(np.array([[2, 1, -1]]), np.array([[2.0, 1, -np.inf]]))
    fused = fuse([dense, lexical], list("abc"))
    assert fused.score[0].tolist() == pytest.approx([1 / 63 + 1 / 61, 2 / 62, 1 / 61])
    assert fused.index[0].tolist() == [2, 1, 0]
    assert fuse([dense], list("abc")).index.tolist() == dense.index.tolist()
    assert fuse([dense, lexical], list("abc"), 1).index.tolist() == [[2]]


def test_documents_are_named_by_words_that_not_every_name_has():
    named = NamedDocuments(["a harbour report 2023", "b harbour report 2024", *["c ferry report 2024"] * 2], ["text"])
    year, company, every, stop = named.scores(["In FY2024?", "The harbour's fares", "a report", "What of the dog?"])
    assert year.tolist() == pytest.approx([0, np.log(3 / 2), np.log(3 / 2)])
    assert company.tolist() == pytest.approx([np.log(3 / 2), np.log(3 / 2), 0])
    assert not every.any() and not stop.any()
    assert not NamedDocuments(["harbour", "harbour"], ["text"]).scores(["the harbour"]).any()


def test_documents_that_share_as_much_are_equal_in_whatever_order_it_is_added():
    names = ["acme bolt dock", "bolt corp east", "bolt dock east", "acme corp dock"]
    scores = NamedDocuments(names, ["text"]).scores(["acme bolt corp dock east fund"])[0].tolist()
    assert len(set(scores)) == 2 and scores[0] < scores[1]  # sorted: acme bolt dock, acme corp dock, …


def test_chunks_of_the_best_named_document_come_first_and_by_their_vectors():
    corpus = np.eye(4, dtype=np.float32)
    query = np.array([[0.9, 0.1, 0.2, 0.3]], dtype=np.float32)
    named = NamedDocuments(["isle", "harbour 2023", "harbour 2024", "harbour 2024"], ["text"])
    found = named.search(["harbour in 2024", "anything"], np.concatenate([query, query]), corpus, list("abcd"))
    assert found.index.tolist() == [[3, 2, 1, -1], [-1, -1, -1, -1]]
    backwards = named.search(["harbour"], -query, corpus, list("abcd"), depth=2)
    assert backwards.index.tolist() == [[1, 2]]


def test_chunks_of_equal_vectors_are_ranked_by_their_ids():
    rng = np.random.default_rng(0)
    for chunks in range(5, 40):
        corpus = np.repeat(rng.normal(size=(1, 384)), chunks, 0).astype(np.float32)
        named = NamedDocuments(["isle", *["harbour"] * (chunks - 1)], ["text"])
        found = named.search(["harbour"], corpus[:1], corpus, [f"{i:03d}" for i in range(chunks)])
        assert found.index[0, : chunks - 1].tolist() == list(range(1, chunks))
