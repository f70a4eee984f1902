import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retrieval_examples import graded_case

from nbutils.core import UserError
from nbutils.evaluation.leaks import find_leaks, plain_words, remove_leaks, wording_overlap
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


@pytest.mark.slow
@given(st.text(max_size=200))
def test_plain_words_is_stable(text):
    words = plain_words(text)
    assert plain_words(" ".join(words)) == words


def test_wording_overlap_is_a_share_of_stems():
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "Which ferries sailed?", "b": "profit margin", "c": "of the"},
        corpus={"x": "The ferry was sailing.", "y": "nothing"},
        relevant_docs={"a": ["y", "x"], "b": ["y"], "c": ["x"]},
    )
    share = wording_overlap(dataset)
    assert share["a"] == 1 and share["b"] == 0 and math.isnan(share["c"])


LONG = " ".join(f"word{i % 37} clause{i}" for i in range(60))


def test_leaks_are_named_counted_and_removed(capsys):
    train = {"t1": LONG, "t2": "something else entirely " * 5}
    validation = EmbeddingQAFinetuneDataset(
        queries={"q1": "?", "q2": "?", "q3": "?"},
        corpus={"same": LONG.upper(), "near": LONG.replace("clause30", "changed"), "new": LONG[::-1]},
        relevant_docs={"q1": ["same"], "q2": ["near", "new"], "q3": ["new"]},
    )
    found = {leak.chunk: leak for leak in find_leaks(train, validation.corpus)}
    assert set(found) == {"same", "near"} and found["same"].exact and not found["near"].exact
    assert found["near"].source == "t1" and 0.8 <= found["near"].share < 1
    rest, leaks = remove_leaks(validation, train)
    assert list(rest.corpus) == ["new"] and list(rest.queries) == ["q2", "q3"] and len(leaks) == 2
    assert rest.relevant_docs["q2"] == ["new"]
    printed = capsys.readouterr().out
    assert "2 of 3 validation chunks" in printed and "same" in printed and "1 word for word" in printed
    kept, _ = remove_leaks(validation, train, keep=True)
    assert kept is validation
    with pytest.raises(UserError, match="Choose other files"):
        remove_leaks(validation, validation.corpus)


def test_a_leak_that_was_cut_differently_is_found():
    words = LONG.split()
    train = {"first": " ".join(words[:70]), "second": " ".join(words[62:])}
    (leak,) = find_leaks(train, {"middle": " ".join(words[35:100]), "new": LONG[::-1]})
    assert leak.chunk == "middle" and leak.source in train and leak.share == 1 and not leak.exact


def test_removing_leaks_keeps_grades():
    dataset, _ = graded_case(1, True)
    rest, _ = remove_leaks(dataset, {"t": "text"}, keep=True)
    assert rest is dataset
    dataset.corpus = {chunk: f"text {chunk}" for chunk in dataset.corpus}
    rest, leaks = remove_leaks(dataset, {"t": "text c000"})
    assert [leak.chunk for leak in leaks] == ["c000"] and "c000" in dataset.corpus and "c000" not in rest.corpus
    expected = {q: {c: g for c, g in found.items() if c != "c000"} for q, found in dataset.relevant_docs.items()}
    assert rest.relevant_docs == {q: found for q, found in expected.items() if found}


def test_a_leak_goes_with_its_header():
    queries, corpus = {"q": "New?", "r": "Old?"}, {"a": "something new", "b": "something old"}
    dataset = EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs={"q": ["a"], "r": ["b"]}, headers={"a": "2023", "b": "2022"}
    )
    rest, _ = remove_leaks(dataset, {"t": "something old"})
    assert rest.passages() == {"a": "2023\nsomething new"} and len(dataset.headers) == 2
