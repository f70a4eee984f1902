import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.models.names import load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import encode
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.split import TrainingPairs
from nbutils.training.teacher import Teacher, cut_out, cut_queries_out

CHUNK = "The north ferry sails at nine. A ticket costs ten crowns\nin summer. Dogs travel free of charge on every deck."


def test_the_teacher_adds_the_standard_scores_of_cosine_and_bm25_over_all_chunks(tiny, dataset):
    model = load_model(tiny, device="cpu")
    queries, chunks = list(dataset.queries.values())[:9], list(dataset.corpus.values())
    vectors = encode(model, queries, "query"), encode(model, chunks)
    teacher = Teacher(*vectors, TrainingPairs(queries, chunks, [""] * len(chunks), [], {0: [0, 1]}))
    cosine = vectors[0] @ vectors[1].T
    bm25 = BM25Index(chunks).scores(queries)
    expected = sum((s - s.mean(1)[:, None]) / np.maximum(s.std(1)[:, None], 1e-6) for s in (cosine, bm25))
    np.testing.assert_allclose(teacher([2, 0], [5, 7, 1]), expected[[2, 0]][:, [5, 7, 1]], atol=1e-4)


def test_a_chunk_is_scored_without_the_sentences_taken_from_it_but_with_its_header():
    chunks = [CHUNK, "Cars cross the strait by the south ferry.", "The bank lent money for the new ferry terminal."]
    query = "A ticket costs ten crowns in summer."
    vectors = np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)

    def score(header: str, groups: dict) -> float:
        return Teacher(*vectors, TrainingPairs([query], chunks, [header, "", ""], [], groups))([0], [0])[0, 0]

    assert score("", {0: [0]}) < min(score("", {}), score("Ten crowns", {0: [0]}))


def test_a_sentence_is_taken_out_of_its_chunk_whatever_the_line_breaks():
    left = cut_queries_out(CHUNK, ["A ticket costs ten crowns in summer."])
    assert "ticket" not in left and "nine." in left and "Dogs" in left
    assert cut_queries_out(CHUNK, ["no such words"]) == CHUNK
    assert cut_queries_out(CHUNK, [CHUNK]) == CHUNK  # too little would be left
    draws = [
        cut_queries_out(CHUNK, ["Dogs travel free of charge on every deck."], 0.9, random.Random(i)) for i in range(200)
    ]
    assert 0.82 < np.mean(["Dogs" not in draw for draw in draws]) < 0.97


SPACES = st.text(" \n\t\u00a0\x1f", min_size=1, max_size=3)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "ab", "b.", "é"]), SPACES), max_size=12),
    st.sampled_from(["a b.", "ab", "b. a ab", ""]),
)
def test_words_are_cut_out_as_a_regular_expression_would(parts, query):
    chunk = "".join(word + space for word, space in parts)
    expected = re.sub(r"\s+".join(map(re.escape, query.split())), " ", chunk) if query else chunk
    assert cut_out(query, chunk) == expected


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 1])
def test_both_kinds_of_labels_learn_and_repeat_to_the_bit(tiny, dataset, tmp_path, share):
    weights = []
    for name in "ab":
        engine = SentenceTransformersFinetuneEngine(
            dataset, tiny, tmp_path / name, batch_size=8, epochs=3, learning_rate=3e-3, soft_labels=share,
            show_progress_bar=False, device="cpu",
        )  # fmt: skip
        engine.finetune()
        assert engine.summary["best"]["dev_ndcg@10"] > engine.summary["base"]["dev_ndcg@10"]
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
