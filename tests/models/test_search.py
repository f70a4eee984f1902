import tracemalloc

import numpy as np
import pytest

from nbutils.models.search import BM25Index, bm25_search, guess_language, plain_terms, vector_search


def test_vector_search_is_exact_in_blocks_and_ranks_ties_by_id():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(500, 8)).astype(np.float32)
    corpus[200:400] = corpus[7]
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    ids = [f"{i:04d}" for i in rng.permutation(500)]
    scores = queries @ corpus.T
    whole = vector_search(queries, corpus, ids, 50)
    for row in range(20):
        expected = sorted(range(500), key=lambda i: (-scores[row, i], ids[i]))[:50]
        assert [ids[i] for i in whole.index[row]] == [ids[i] for i in expected]
    blocks = vector_search(queries, corpus, ids, 50, block=1500)
    assert (blocks.index == whole.index).all()
    assert vector_search(queries[:0], corpus, ids, 50).index.shape == (0, 50)


def test_copies_of_a_vector_tie_exactly():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(72, 384)).astype(np.float32)
    corpus[60:] = corpus[rng.permutation(60)[:12]]
    ids = [f"{i:02d}" for i in rng.permutation(72)]
    ranking = vector_search(rng.normal(size=(120, 384)).astype(np.float32), corpus, ids)
    for index, score in zip(ranking.index, ranking.score, strict=True):
        by_vector = {}
        for chunk, value in zip(index, score, strict=True):
            by_vector.setdefault(corpus[chunk].tobytes(), []).append((float(value), ids[chunk]))
        for copies in by_vector.values():
            assert len({value for value, _ in copies}) == 1
            assert [chunk for _, chunk in copies] == sorted(chunk for _, chunk in copies)


@pytest.mark.slow
def test_a_hundred_thousand_chunks_stay_within_two_gibibytes():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(100_000, 384)).astype(np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    queries = corpus[:1000] + rng.normal(size=(1000, 384)).astype(np.float32) * 0.01
    tracemalloc.start()
    ranking = vector_search(queries, corpus, [f"{i:06d}" for i in range(100_000)], 100)
    peak = tracemalloc.get_traced_memory()[1] + corpus.nbytes + queries.nbytes
    tracemalloc.stop()
    assert (ranking.index[:, 0] == np.arange(1000)).all()
    assert peak < 2 * 2**30
    for row in rng.integers(0, 1000, 5):
        exact = np.argsort(-(corpus.astype(np.float64) @ queries[row].astype(np.float64)))[:100]
        assert len(set(exact) ^ set(ranking.index[row])) <= 2


def test_bm25_finds_shared_stems_and_returns_nothing_for_none():
    texts = ["The ferries sailed at dawn.", "Rates for loans rose.", "Sailing in rough weather", "of the and"]
    ranking = bm25_search(["sailing ferry", "the of", "zebra"], texts, list("abcd"))
    assert set(ranking.index[0][ranking.index[0] >= 0]) == {0, 2}
    assert ranking.index[0, 0] == 0
    assert (ranking.index[1:] == -1).all()
    assert (bm25_search(["sea"], ["", "of the"], list("ab")).index == -1).all()


@pytest.mark.parametrize(
    ("query", "right", "wrong"),
    [
        ("渡轮票价", "公司今年提高了渡轮票价，旅客减少。", "董事会批准了分红。"),
        ("フェリーの運賃", "今年フェリーの運賃が上がりました。", "取締役会は配当を承認した。"),
        ("ค่าโดยสารเรือ", "ปีนี้ค่าโดยสารเรือเพิ่มขึ้น", "คณะกรรมการอนุมัติเงินปันผล"),
        ("नौका किराया", "इस वर्ष नौका किराया बढ़ा।", "बोर्ड ने लाभांश मंजूर किया।"),
        (
            "Fährpreise",
            "Die Preise der Fähren und der Fährpreis sind in diesem Jahr gestiegen.",
            "Der Vorstand wurde neu besetzt.",
        ),
        ("тариф парома", "В этом году тарифы паромов выросли.", "Совет директоров утвердил дивиденды."),
    ],
)
def test_bm25_finds_words_in_any_script(query, right, wrong):
    found = bm25_search([query], [wrong, right], ["a", "b"])
    assert (found.index[0][0] == 1) is True and type(found.score[0][0]) is float


def test_the_language_of_stems_is_that_of_the_texts():
    german = "Die Gesellschaft hat in diesem Jahr mehr Fähren betrieben, und der Umsatz stieg um fünf Prozent."
    assert guess_language([german]) == "german"
    assert guess_language(["The company ran more ferries than in the year before."]) == "english"
    assert guess_language(["渡轮票价", "", "12 345"]) == "english"


def test_bm25_scores_are_a_matrix_over_all_texts():
    index = BM25Index(["ferry fares rose", "loans", "fares and fares"])
    scores = index.scores(["fares", "zebra", ""])
    assert scores.shape == (3, 3) and scores.dtype == np.float32
    assert scores[0, 2] > scores[0, 0] > scores[0, 1] == 0 and not scores[1:].any()
    assert index.search(["fares"], list("abc")).index.tolist() == [[2, 0, -1]]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("FY2018 10-K", ["fy2018", "10", "fy", "2018"]),
        ("A 2023Q2 plan_B2", ["2023q2", "plan", "b2", "2023"]),
        ("____ x", []),
        ("Größe12 नौका", ["größe12", "नौका", "größe", "12"]),
    ],
)
def test_words_that_join_letters_and_figures_are_found_by_their_parts_too(text, terms):
    assert plain_terms(text) == terms
