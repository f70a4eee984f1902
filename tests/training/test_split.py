import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from nbutils.core import UserError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, with_queries
from nbutils.training.split import search_scores, split_questions, training_pairs


def made_of(texts: list[str]) -> EmbeddingQAFinetuneDataset:
    """One question per chunk."""
    corpus = {f"c{i}": text for i, text in enumerate(texts)}
    return EmbeddingQAFinetuneDataset(
        queries={f"q{i}": f"about {i}" for i in range(len(texts))},
        corpus=corpus,
        relevant_docs={f"q{i}": [f"c{i}"] for i in range(len(texts))},
    )


def test_chunks_are_held_out_whole_in_blocks_of_neighbours(dataset):
    train, dev = split_questions(dataset, 0.25)
    chunks = list(dataset.corpus)
    held_out = sorted({chunks.index(dataset.relevant_docs[q][0]) for q in dev})
    assert len(held_out) == 12 and len(train) + len(dev) == len(dataset.queries)
    assert set(held_out).isdisjoint(chunks.index(dataset.relevant_docs[q][0]) for q in train)
    assert sum(after - before == 1 for before, after in itertools.pairwise(held_out)) >= 10
    assert split_questions(dataset, 0.25) == (train, dev) != split_questions(dataset, 0.25, seed=1)


@pytest.mark.parametrize("overlap", [0, 40, 130])
def test_no_question_is_trained_on_whose_chunk_overlaps_a_held_out_one(overlap):
    text = " ".join(f"word{i}" for i in range(2000))
    chunks = [text[start : start + 200] for start in range(0, 12_000, 200 - overlap)]
    train, dev = split_questions(made_of(chunks), 0.1)
    near = 1 + (overlap >= 100) if overlap else 0  # how far apart two chunks may stand and still share text
    distances = [abs(int(a[1:]) - int(b[1:])) for a in train for b in dev]
    assert len(dev) == round(len(chunks) * 0.1) and min(distances) == near + 1
    assert len(train) > 0.8 * len(chunks)


def test_a_text_that_stands_twice_is_held_out_everywhere():
    data = made_of([f"text {i // 2}" for i in range(40)])
    train, dev = split_questions(data, 0.2)
    texts = [{data.corpus[data.relevant_docs[q][0]] for q in part} for part in (train, dev)]
    assert texts[1] and texts[0].isdisjoint(texts[1])


@pytest.mark.parametrize("size", range(1, 8))
def test_a_small_corpus_keeps_two_chunks_to_train_on(size):
    text = "one long sentence that all of the chunks of this corpus share "
    for fraction in (0.1, 0.5, 0.9):
        for data in (made_of([f"{i}" for i in range(size)]), made_of([text + str(i) + text for i in range(size)])):
            train, dev = split_questions(data, fraction)
            assert len(train) >= min(size, 2) and not set(train) & set(dev)


def test_questions_without_a_chunk_and_too_few_chunks_are_refused():
    loose = EmbeddingQAFinetuneDataset(queries={"q": "x"}, corpus={"c": "y"}, relevant_docs={"q": ["z"]})
    with pytest.raises(UserError, match="Question q"):
        split_questions(loose, 0.1)
    with pytest.raises(UserError, match="two at least"):
        training_pairs(made_of(["y"]), ["q0"])


def test_pairs_take_the_first_chunk_or_all(dataset):
    data = dataset.model_copy(deep=True)
    data.relevant_docs["c0q0"] = ["c0", "c1"]
    first, every = (training_pairs(data, ["c0q0", "c1q0"], use_all_docs=each) for each in (False, True))
    assert first.groups == {0: [0], 1: [1]} and every.groups == {0: [0], 1: [0, 1]}
    assert first.positives == every.positives == [[0, 1], [1]]


def test_chunks_that_differ_in_their_headers_alone_are_apart_and_no_negatives_of_each_other(tiny, dataset):
    data = dataset.model_copy(deep=True)
    data.corpus["c1"] = data.corpus["c0"]
    data.headers = {"c0": "annual report 2023", "c1": "annual report 2024"}
    data.names = {"c1": "report", "c2": "third", "c3": "other"}
    pairs = training_pairs(data, ["c0q0", "c1q0", "c2q0"])
    assert pairs.headers[:3] == ["annual report 2023", "annual report 2024", ""]
    assert pairs.names == {1: "report", 2: "third", 3: "other"}
    two = data.model_copy(update={"names": dict.fromkeys(data.corpus, "report") | {"c3": "other"}})
    assert training_pairs(two, ["c0q0", "c1q0"]).names == {}
    assert pairs.groups == {0: [0], 1: [1], 2: [2]} and pairs.positives == [[0, 1], [1, 0], [2]]
    assert pairs.passages == list(data.passages().values())
    bare = data.model_copy(update={"corpus": data.passages(), "headers": {}})
    model = SentenceTransformer(tiny, device="cpu")
    assert search_scores(model, data) == search_scores(model, bare)
    assert with_queries(data, {"c0q0"}).passages() == data.passages()


def test_scores_are_those_of_a_plain_search(tiny, dataset):
    model = SentenceTransformer(tiny, device="cpu")
    scores = search_scores(model, dataset)
    queries, chunks = model.encode(list(dataset.queries.values())), model.encode(list(dataset.corpus.values()))
    order = np.argsort(-queries @ chunks.T, axis=1, kind="stable")
    right = [list(dataset.corpus).index(ids[0]) for ids in dataset.relevant_docs.values()]
    ranks = np.array([row.tolist().index(chunk) + 1 for row, chunk in zip(order, right, strict=True)])
    assert scores["hit_rate@5"] == pytest.approx((ranks <= 5).mean())
    assert scores["mrr@10"] == pytest.approx(np.where(ranks <= 10, 1 / ranks, 0).mean())
    assert scores["ndcg@10"] == pytest.approx(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0).mean())


@pytest.mark.slow
def test_ties_do_not_depend_on_the_hash_seed(tiny):
    """Here and in another process, whose seeds are drawn anew unless they are set."""
    code = f"""
from sentence_transformers import SentenceTransformer
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.split import search_scores
ids = [f"chunk {{i}}" for i in range(30)]
data = EmbeddingQAFinetuneDataset(
    queries={{i: "net debt" for i in ids}}, corpus=dict.fromkeys(ids, "debt"), relevant_docs={{i: [i] for i in ids[::2]}}
)
scores = search_scores(SentenceTransformer({tiny!r}, device="cpu"), data, ids[::2])
print(scores)
"""
    here: dict = {}
    exec(code, here)
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": seed},
        capture_output=True,
        check=True,
        text=True,
    )
    assert there.stdout == f"{here['scores']}\n"
