"""Rankings of chunks for queries: exact vector search and BM25."""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nbutils.models.vectors import unit

DEPTH = 100
BLOCK = 32 * 2**20  # scores held at a time


@dataclass
class Ranking:
    """The best chunks of each query.

    Args:
        index: int64 array of shape (queries, depth), positions in the corpus, best first; -1 where nothing was found.
        score: float array of the same shape; -inf where nothing was found.

    A single element of them, such as `index[0][0]`, is Python's own int or float.
    """

    index: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        self.index, self.score = self.index.view(_Plain), self.score.view(_Plain)


class _Plain(np.ndarray):
    """An array whose single elements are Python's own numbers, which compare to a plain True or False."""

    def __getitem__(self, key):
        found = super().__getitem__(key)
        return found.item() if isinstance(found, np.generic) else found


def id_ranks(ids: Sequence[str]) -> np.ndarray:
    """Return the position of each id in the sorted order of all ids, shape (ids,)."""
    return np.argsort(sorted(range(len(ids)), key=ids.__getitem__)).astype(np.int64)


def top(scores: np.ndarray, ranks: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return columns and scores of the `depth` best of each row, equal scores by the lower rank first.

    Args:
        scores: shape (rows, columns).
        ranks: of each column, see `id_ranks`.
        depth: columns to return; all where there are fewer.
    """
    depth = min(depth, scores.shape[1])
    if depth == scores.shape[1]:
        chosen = np.broadcast_to(np.arange(depth), scores.shape).copy()
    else:
        chosen = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
        # argpartition picks at random among columns that tie for the last place: choose again in such rows
        limit = np.take_along_axis(scores, chosen, 1).min(axis=1)
        for row in np.flatnonzero((scores >= limit[:, None]).sum(axis=1) > depth):
            tied = np.flatnonzero(scores[row] >= limit[row])
            chosen[row] = tied[np.lexsort((ranks[tied], -scores[row, tied]))][:depth]
    values = np.take_along_axis(scores, chosen, 1)
    order = np.lexsort((ranks[chosen], -values), axis=1)
    return np.take_along_axis(chosen, order, 1), np.take_along_axis(values, order, 1)


def _blocks(rows: int, columns: int, block: int = BLOCK) -> Iterator[slice]:
    step = max(1, block // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


def vector_search(
    queries: np.ndarray, corpus: np.ndarray, ids: Sequence[str], depth: int = DEPTH, *, block: int = BLOCK
) -> Ranking:
    """Search exactly by inner product (cosine for vectors of length 1).

    Equal scores are ranked by ascending id, as InformationRetrievalEvaluator does. Equal vectors score the same, which
    a matrix product alone does not promise: it may round differently from column to column.

    Args:
        queries: shape (queries, dimensions), float32.
        corpus: shape (chunks, dimensions), float32.
        ids: ids of the chunks.
        depth: chunks to return per query.
        block: scores held at a time; memory use is about ten bytes for each.
    """
    ranks, scores = id_ranks(ids), inner_products(queries, corpus)
    index = np.empty((len(queries), min(depth, len(ids))), dtype=np.int64)
    score = np.empty(index.shape, dtype=np.float32)
    for rows in _blocks(len(queries), len(ids), block):
        index[rows], score[rows] = top(scores(rows), ranks, depth)
    return Ranking(index, score)


def inner_products(queries: np.ndarray, corpus: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Return what gives the inner products of some queries and all chunks, the same for chunks of equal vectors."""
    seen: dict[bytes, int] = {}
    first = np.array([seen.setdefault(vector.tobytes(), i) for i, vector in enumerate(corpus)], dtype=np.int64)
    copies = np.flatnonzero(first != np.arange(len(corpus)))

    def scores(rows: slice) -> np.ndarray:
        found = queries[rows] @ corpus.T
        found[:, copies] = found[:, first[copies]]
        return found

    return scores


def ranking(scores: Callable[[slice], np.ndarray], rows: int, ids: Sequence[str], depth: int) -> Ranking:
    """Return the best texts of each row of `scores`, computed in blocks of rows; what scores 0 is not found."""
    ranks = id_ranks(ids)
    index = np.full((rows, min(depth, len(ids))), -1, dtype=np.int64)
    score = np.full(index.shape, -np.inf)
    for part in _blocks(rows, len(ids)):
        best, values = top(scores(part), ranks, depth)
        index[part], score[part] = np.where(values > 0, best, -1), np.where(values > 0, values, -np.inf)
    return Ranking(index, score)


def any_vector_search(
    queries: np.ndarray, corpus: np.ndarray, more: np.ndarray, owner: np.ndarray, ids: Sequence[str], depth: int = DEPTH
) -> Ranking:
    """Search chunks that have several vectors each: a chunk's score is that of its nearest vector.

    Args:
        queries: shape (queries, dimensions), float32.
        corpus: shape (chunks, dimensions), the chunks' own vectors.
        more: shape (n, dimensions), further vectors.
        owner: shape (n,), the chunk of each further vector, as its row in `corpus`.
        ids, depth: as for `vector_search`.
    """
    owner = np.concatenate([np.arange(len(corpus)), owner]).astype(np.int64)
    vectors, deep = np.concatenate([corpus, more]), depth * int(np.bincount(owner).max())
    found = vector_search(queries, vectors, [ids[i] for i in owner], deep)
    index = np.empty((len(queries), min(depth, len(ids))), dtype=np.int64)
    score = np.empty(index.shape, dtype=np.float32)
    for row, chunks in enumerate(owner[found.index]):
        first = np.sort(np.unique(chunks, return_index=True)[1])[: index.shape[1]]
        index[row], score[row] = chunks[first], found.score[row][first]
    return Ranking(index, score)


def retrieve_as_llama_index(queries: np.ndarray, corpus: np.ndarray, ids: Sequence[str], top_k: int) -> list[list[str]]:
    """Return for each query the ids that LlamaIndex's SimpleVectorStore returns, in its order.

    Candidates come from one matrix product in float32; they are scored again in float64 as LlamaIndex scores them.
    Where two scores are equal there, LlamaIndex's own function is asked, since its order of ties follows from the
    history of its heap.

    Args:
        queries: shape (queries, dimensions), vectors as the model gave them.
        corpus: shape (chunks, dimensions).
        ids: ids of the chunks, in the order of the corpus.
        top_k: ids to return per query.
    """
    from llama_index.core.indices.query.embedding_utils import get_top_k_embeddings

    ids = list(ids)
    ranking = vector_search(unit(queries), unit(corpus), ids, top_k + 3)
    exact_queries, exact_corpus = queries.astype(np.float64), corpus.astype(np.float64)
    candidates = exact_corpus[ranking.index]
    scores = np.einsum("qd,qkd->qk", exact_queries, candidates)
    scores /= np.linalg.norm(exact_queries, axis=1)[:, None] * np.linalg.norm(candidates, axis=2)
    order = np.argsort(-scores, axis=1, kind="stable")
    index, scores = np.take_along_axis(ranking.index, order, 1), np.take_along_axis(scores, order, 1)
    tied = (np.abs(np.diff(scores[:, : top_k + 1], axis=1)) < 1e-12).any(axis=1)
    tied |= ~np.isfinite(scores).all(axis=1)
    if len(ids) > ranking.index.shape[1]:  # float32 cannot tell the last candidates from those left out
        tied |= ranking.score[:, top_k - 1] - ranking.score[:, -1] < 2e-6
    return [
        get_top_k_embeddings(exact_queries[row], exact_corpus, similarity_top_k=top_k, embedding_ids=ids)[1]
        if tied[row]
        else [ids[i] for i in index[row, :top_k]]
        for row in range(len(queries))
    ]


# Scripts that put no space between words: Thai, Lao, Burmese, Khmer, kana, Chinese characters.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# A word is two letters or digits or more; vowel signs and accents of other scripts belong to it.
_WORDS = re.compile(
    rf"([{UNSPACED}]+)|(?:(?![{UNSPACED}_])[\w\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0963\u0966-\u0dff]){{2,}}"
)
_PARTS = re.compile(r"\d{2,}|\D{2,}")


def in_pairs(pattern: re.Pattern, text: str) -> list[str]:
    """Return what a pattern finds in a text; of its first group, which are runs of a script without spaces, the pairs of
    neighbouring characters, as search engines do for Chinese and Japanese (Lucene's CJKAnalyzer)."""
    found: list[str] = []
    for match in pattern.finditer(text):
        run = match[0]
        found += [run[i : i + 2] for i in range(max(1, len(run) - 1))] if match[1] else [run]
    return found


def plain_terms(text: str) -> list[str]:
    """Return a text's words in lower case; where a script has no spaces, its pairs of neighbouring characters.

    After them come the parts of words that join letters and figures, so that "FY2018" is found by "2018", too
    (as Lucene's WordDelimiterGraphFilter has it).
    """
    if text.isascii():
        terms = re.findall(r"[^\W_]{2,}", text.lower())
    else:
        terms = in_pairs(_WORDS, unicodedata.normalize("NFKC", text).lower())
    joined = (term for term in terms if not term.isalpha())
    return terms + [part for term in joined for part in _PARTS.findall(term) if part != term]


@functools.cache
def _stop_words() -> dict[str, frozenset[str]]:
    from bm25s import stopwords

    names = "danish dutch french german italian norwegian portuguese russian spanish swedish turkish"
    known = {name: frozenset(getattr(stopwords, f"STOPWORDS_{name.upper()}")) for name in names.split()}
    return {"english": frozenset(stopwords.STOPWORDS_EN_PLUS)} | known


def guess_language(texts: Sequence[str], sample: int = 20_000) -> str:
    """Return the language whose stop words are most frequent in the texts (English where none is ahead of it)."""
    step = max(1, len(texts) // 100)
    terms = [term for text in texts[::step] for term in plain_terms(text[:1000])][:sample]
    counts = {name: sum(term in words for term in terms) for name, words in _stop_words().items()}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > 1.2 * counts["english"] else "english"


@functools.cache
def _stemmer(language: str):
    import Stemmer

    return Stemmer.Stemmer(language)


def stems(text: str, language: str = "english", stop_words: frozenset[str] | None = None) -> list[str]:
    """Return the stems of a text's terms without stop words.

    Args:
        text: any text.
        language: a language that Snowball stems.
        stop_words: what to leave out; default is the language's list.
    """
    stop_words = _stop_words().get(language, frozenset()) if stop_words is None else stop_words
    return _stemmer(language).stemWords([term for term in plain_terms(text) if term not in stop_words])


class BM25Index:
    """BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over texts, by word stems without stop words.

    Stems and stop words are those of the texts' language (see `guess_language`); in scripts without spaces the terms
    are pairs of characters. Source: Lù 2024, "BM25S" (arXiv 2407.03618), through the bm25s package.

    Args:
        texts: the texts to search.
        language: a language that Snowball stems; default is the texts' own.
    """

    def __init__(self, texts: Sequence[str], language: str | None = None):
        import bm25s

        texts = list(texts)
        self.size = len(texts)
        self.language = language or guess_language(texts)
        # the usual short list for English, as in bm25s and Lucene
        self._stop_words = bm25s.stopwords.STOPWORDS_EN if self.language == "english" else None
        terms = [self._terms(text) for text in texts]
        self._engine = bm25s.BM25() if any(terms) else None
        if self._engine:
            self._engine.index(terms, show_progress=False)

    def _terms(self, text: str) -> list[str]:
        return stems(text, self.language, self._stop_words)

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """Return the scores of all texts for each query: float32, shape (queries, texts), 0 where no term is shared."""
        scores = np.zeros((len(queries), self.size), dtype=np.float32)
        for row, query in enumerate(queries) if self._engine else ():
            if terms := [term for term in self._terms(query) if term in self._engine.vocab_dict]:
                scores[row] = self._engine.get_scores(terms)
        return scores

    def search(self, queries: Sequence[str], ids: Sequence[str], depth: int = DEPTH) -> Ranking:
        """Return the best texts of each query; a text that shares no term with the query is not returned."""
        return ranking(lambda rows: self.scores(queries[rows]), len(queries), ids, depth)


def bm25_search(queries: Sequence[str], texts: Sequence[str], ids: Sequence[str], depth: int = DEPTH) -> Ranking:
    """Return the `depth` best of some texts, which have these ids, for each query; see `BM25Index`."""
    return BM25Index(texts).search(list(queries), ids, depth)
