"""Small embeddings, datasets and rankings that the tests of models and evaluation share."""

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding

from nbutils.models.search import Ranking
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


class Words(BaseEmbedding):
    """Counts of a few words: an embedding with many exact ties."""

    calls: int = 0

    def _vector(self, text: str) -> list[float]:
        self.calls += 1
        return [1.0 + text.count(word) for word in ("ship", "rail", "sea", "rate")]

    def _get_text_embedding(self, text):
        return self._vector(text)

    def _get_query_embedding(self, query):
        return self._vector(query)

    async def _aget_query_embedding(self, query):
        return self._vector(query)


def tied_dataset(seed: int, chunks: int = 40) -> EmbeddingQAFinetuneDataset:
    rng = np.random.default_rng(seed)
    words = np.array(["ship", "rail", "sea", "rate"])
    corpus = {f"c{rng.integers(10**9):09d}": " ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(chunks)}
    queries = {f"q{i}": " ".join(rng.choice(words, 2)) for i in range(20)}
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs={q: [str(rng.choice(list(corpus)))] for q in queries}
    )


def random_ranking(rng, queries: int, chunks: int, depth: int) -> Ranking:
    index = np.stack([rng.permutation(chunks)[:depth] for _ in range(queries)])
    return Ranking(index, np.sort(rng.random((queries, depth)))[:, ::-1])


def graded_case(seed: int, graded: bool):
    rng = np.random.default_rng(seed)
    corpus = {f"c{i:03d}": "text" for i in range(150)}
    queries = {f"q{i}": "?" for i in range(30)}
    relevant = {
        q: {
            f"c{chunk:03d}": int(rng.integers(1, 4)) if graded else 1
            for chunk in rng.choice(150, rng.integers(1, 20), replace=False)
        }
        for q in queries
    }

    class Dataset:
        pass

    dataset = Dataset()
    dataset.queries, dataset.corpus, dataset.relevant_docs = queries, corpus, relevant
    return dataset, random_ranking(rng, 30, 150, 100)


def compared(ranks: dict[str, dict[str, list[float]]], tuned: str | None = "fine-tuned", gold=None):
    """A comparison made of given ranks, tested as `compare_models` tests; a set called gold is by people (and `gold`)."""
    import pandas as pd

    from nbutils.evaluation.compare import Comparison, _pairs_of_interest
    from nbutils.evaluation.stats import statistics
    from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

    frames, datasets = [], {}
    for question_set, systems in ranks.items():
        ids = [f"q{i}" for i in range(len(next(iter(systems.values()))))]
        datasets[question_set] = EmbeddingQAFinetuneDataset(
            queries=dict.fromkeys(ids, "Which ships?"), corpus={"c": "ships"}, relevant_docs={q: ["c"] for q in ids}
        )
        if gold is not None and question_set == "gold":
            datasets["gold"], ids = gold, list(gold.queries)
        for system, values in systems.items():
            rank = np.array(values, dtype=float)
            labels = {"question_set": question_set, "system": system, "query": ids, "cluster": ids}
            frames.append(pd.DataFrame(labels | {"mrr@10": 1 / rank, "hit_rate@5": (rank <= 5) * 1.0}))
    per_query = pd.concat(frames, ignore_index=True)
    same_length = next((name for systems in ranks.values() for name in systems if name.endswith(" tokens")), None)
    pairs = _pairs_of_interest("base", tuned, same_length)
    tests = statistics(per_query, "base", pairs, draws=500)
    return Comparison(
        per_query, *tests, rankings={}, datasets=datasets, base="base", tuned=tuned, same_length=same_length,
        human={"gold"} & set(ranks),
    )  # fmt: skip
