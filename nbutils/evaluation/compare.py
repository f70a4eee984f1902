"""How well models find the right chunk: the walkthrough's two functions, and a comparison that can be believed."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbutils.core import UserError, progress, write_atomic
from nbutils.evaluation.stats import bootstrap_intervals, holm, permutation_p
from nbutils.models.metrics import query_metrics
from nbutils.models.search import Ranking, bm25_search, fuse, retrieve_as_llama_index, vector_search
from nbutils.models.vectors import EmbeddingCache, model_fingerprint, sentence_transformer

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

    Model = str | Path | BaseEmbedding | SentenceTransformer

METRICS = ("hit_rate@1", "hit_rate@3", "hit_rate@5", "hit_rate@10", "mrr@10", "ndcg@10", "map@100")
BM25 = "BM25"


def _load(model: "Model"):
    from nbutils.models.names import load_model, resolve_embed_model

    if not isinstance(model, str | Path):
        return model
    if str(model).partition(":")[0] in ("openai", "ollama"):
        return resolve_embed_model(model)
    return load_model(model)


def relevance(dataset) -> dict[str, dict[str, float]]:
    """Return question id -> relevant chunk id -> grade (1 where the dataset gives no grades).

    Raises:
        UserError: a question without a relevant chunk, or one that points to a chunk the corpus lacks.
    """
    grades = {}
    for query_id in dataset.queries:
        found = dataset.relevant_docs.get(query_id) or ()
        graded = dict(found) if isinstance(found, Mapping) else dict.fromkeys(found, 1.0)
        graded = {chunk: float(grade) for chunk, grade in graded.items() if grade > 0}
        if not graded or any(chunk not in dataset.corpus for chunk in graded):
            raise UserError(
                f"Question {query_id} points to no chunk of the corpus. Remove it or add the chunk it asks about."
            )
        grades[query_id] = graded
    if not grades:
        raise UserError("The dataset holds no question. Run 02_generate_questions first.")
    return grades


def evaluate(
    dataset,
    embed_model: "Model",
    top_k: int = 5,
    verbose: bool = False,
    *,
    vector_store=None,
    bf16: bool | None = False,
    cache: str | Path | bool | None = None,
) -> list[dict]:
    """Return for each question whether its chunk is among the `top_k` retrieved, as the walkthrough's `evaluate` does.

    The rows are those of a VectorStoreIndex and its retriever: same ids, same order, ties included. The walkthrough
    assumes one relevant chunk a question; of several any one is a hit, and the first stands under `expected`.
    Source: LlamaIndex, "Finetune Embeddings" (docs.llamaindex.ai).

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        embed_model: a name (see `nbutils.models.names`), a LlamaIndex embedding, or a SentenceTransformer.
        top_k: chunks to retrieve a question.
        verbose: show progress.
        vector_store: an empty LlamaIndex vector store to search in place of the exact search.
        bf16: compute in bfloat16; None is where it pays. The default is float32, as LlamaIndex computes.
        cache: folder of the embedding cache, False for none; see `nbutils.models.vectors.EmbeddingCache`.

    Returns:
        One dict a question: `is_hit`, `retrieved` (ids, best first), `expected` (id) and `query` (id).

    Raises:
        UserError: no question, a question that points nowhere, or a model that cannot be loaded.
    """
    relevant = relevance(dataset)
    _check_top_k(top_k)
    queries, corpus = _embed(dataset, _load(embed_model), EmbeddingCache(cache), bf16, verbose, normalize=False)
    if vector_store is None:
        retrieved = retrieve_as_llama_index(queries, corpus, list(dataset.corpus), top_k)
    else:
        retrieved = _retrieve_from_store(vector_store, queries, corpus, dataset.corpus, top_k)
    rows = []
    for query_id, ids in zip(dataset.queries, retrieved, strict=True):
        expected = next(iter(relevant[query_id]))
        is_hit = any(chunk in ids for chunk in relevant[query_id])
        rows.append({"is_hit": is_hit, "retrieved": ids, "expected": expected, "query": query_id})
    return rows


def embed_dataset(
    dataset, model: "Model", *, bf16: bool | None = False, cache: str | Path | bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a dataset's questions and chunks, float32, shapes (n, dimensions), length 1 each.

    Args:
        dataset: anything with `queries` and `corpus`.
        model: a name or a model.
        bf16: compute in bfloat16; None is where it pays.
        cache: folder of the embedding cache, False for none.
    """
    return _embed(dataset, _load(model), EmbeddingCache(cache), bf16)


def _check_top_k(top_k: int) -> None:
    if not isinstance(top_k, int) or top_k < 1:
        raise UserError(f"top_k is {top_k!r}; use a whole number of at least 1.")


def _embed(dataset, model, cache: EmbeddingCache, bf16, show_progress: bool = False, normalize: bool = True):
    texts = list(dataset.queries.values()), list(dataset.corpus.values())
    return _embed_texts(*texts, model, cache, bf16=bf16, show_progress=show_progress, normalize=normalize)


def _embed_texts(queries: list[str], corpus: list[str], model, cache: EmbeddingCache, **options):
    fingerprint = model_fingerprint(model) if cache.file else None
    documents = cache.embed(model, corpus, "document", fingerprint=fingerprint, **options)
    return cache.embed(model, queries, "query", fingerprint=fingerprint, **options), documents


def _retrieve_from_store(store, queries: np.ndarray, corpus: np.ndarray, texts: dict[str, str], top_k: int):
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import VectorStoreQuery

    names = {str(uuid.uuid5(uuid.NAMESPACE_OID, chunk)): chunk for chunk in texts}  # some stores take only UUIDs
    nodes = [
        TextNode(id_=name, text=texts[chunk], embedding=vector.tolist())
        for (name, chunk), vector in zip(names.items(), corpus, strict=True)
    ]
    for start in range(0, len(nodes), 1000):
        part = nodes[start : start + 1000]
        stored = store.add(part)  # and some give ids of their own
        names |= {str(own): names[node.node_id] for own, node in zip(stored, part, strict=True)}
    retrieved = []
    for vector in queries:
        result = store.query(VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=top_k))
        found = result.ids or [node.node_id for node in result.nodes or []]
        retrieved.append([names[str(name)] for name in found])
    return retrieved


def store_recall(exact: Sequence[dict], other: Sequence[dict]) -> float:
    """Return the share of the exactly nearest chunks that another vector store also returned.

    Args:
        exact: rows of `evaluate` with the exact search.
        other: rows of `evaluate` with `vector_store`, on the same dataset, model and `top_k`.
    """
    found = [len(set(a["retrieved"]) & set(b["retrieved"])) for a, b in zip(exact, other, strict=True)]
    return sum(found) / sum(len(row["retrieved"]) for row in exact)


def evaluate_st(
    dataset,
    model_id: "Model",
    name: str,
    *,
    output_path: str | Path = "results",
    bf16: bool | None = False,
    cache: str | Path | bool | None = None,
) -> dict[str, float]:
    """Return what sentence-transformers' InformationRetrievalEvaluator gives, as the walkthrough's `evaluate_st` does.

    The evaluator itself computes the numbers; only the embeddings come from the cache.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        model_id: a name (see `nbutils.models.names`) or a SentenceTransformer.
        name: goes into the keys and the CSV's name.
        output_path: folder of the CSV `Information-Retrieval_evaluation_NAME_results.csv`; made if missing.
        bf16: compute in bfloat16; None is where it pays.
        cache: folder of the embedding cache, False for none.

    Returns:
        Metric key, e.g. `NAME_cosine_ndcg@10` -> value between 0 and 1.

    Raises:
        UserError: as `evaluate`; a model that is no SentenceTransformer; an `output_path` that cannot be written.
    """
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant = {query: set(chunks) for query, chunks in relevance(dataset).items()}
    model = sentence_transformer(_load(model_id))
    if model is None:
        raise UserError(f"evaluate_st needs a sentence-transformers model; {model_id!r} is none. Use evaluate for it.")
    store = EmbeddingCache(cache)
    options = {"bf16": bf16, "normalize": False, "fingerprint": model_fingerprint(model) if store.file else None}

    class Evaluator(InformationRetrievalEvaluator):
        def embed_inputs(self, model, sentences, encode_fn_name=None, **kwargs):
            import torch

            kind = "query" if encode_fn_name == "query" else "document"
            return torch.from_numpy(store.embed(model, sentences, kind, **options))

    evaluator = Evaluator(dataset.queries, dataset.corpus, relevant, name=name)
    metrics = evaluator(model)
    prefix = f"{name}_" if name else ""
    row = {"epoch": -1, "steps": -1}
    for column in evaluator.csv_headers[2:]:
        row[column] = metrics[prefix + column.replace("-", "_", 1).lower()]
    text = ",".join(row) + "\n" + ",".join(str(value) for value in row.values()) + "\n"
    write_atomic(Path(output_path) / evaluator.csv_file, text)
    return metrics


@dataclass
class Comparison:
    """What `compare_models` found.

    Args:
        per_query: a row for each question set, system and question: `question_set`, `system`, `query`, `question`,
            `expected` (chunk id; the first of several), `cluster` (the chunk whose questions are drawn together, also
            the first), `rank` of the best relevant chunk (from 1; NaN beyond rank 100),
            `retrieved` (the first ids), and a column for each metric.
        table: tidy means: `question_set`, `system`, `metric`, `value`, `low`, `high` (95 % interval), `questions`.
        differences: tidy paired differences from the base: `question_set`, `system`, `base`, `metric`, `difference`,
            `low`, `high`, `p`, `p_holm`, `wins`, `losses`, `ties`, `questions`. `p` is that of a paired permutation
            test, `p_holm` corrected (Holm) for all the systems compared on a question set, metric by metric.
        rankings: question set -> system -> Ranking (100 deep).
        datasets: question set -> dataset.
        base: name of the system that differences are taken from.
        weights: hybrid system -> weight of the dense ranking.
        notes: what a reader must know, e.g. which systems were left out and why.
        costs: a row a dense system: `system`, `parameters`, `dimensions`, `max_seq_length` (tokens), `embedded`
            (texts that were not in the cache) and `seconds` for embedding and search.
    """

    per_query: "pd.DataFrame"
    table: "pd.DataFrame"
    differences: "pd.DataFrame"
    rankings: dict[str, dict[str, Ranking]]
    datasets: dict[str, object]
    base: str
    weights: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    costs: "pd.DataFrame | None" = None
    tuned: str | None = None

    def summary(self, metrics: Sequence[str] = METRICS, question_set: str | None = None) -> "pd.DataFrame":
        """Return a table to read: a row a question set and system, a column a metric, "value [low–high]"."""
        rows = self.table[self.table.metric.isin(metrics)]
        if question_set is not None:
            rows = rows[rows.question_set == question_set]
        text = rows.assign(text=[f"{r.value:.3f} [{r.low:.3f}–{r.high:.3f}]" for r in rows.itertuples()])
        wide = text.pivot(index=["question_set", "system"], columns="metric", values="text")
        order = list(dict.fromkeys(zip(rows.question_set, rows.system, strict=True)))
        return wide.reindex(order)[[metric for metric in metrics if metric in wide]]

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def save(self, folder: str | Path) -> list[Path]:
        """Write the results to `folder` and return the files, each written whole.

        `metrics.csv`, `differences.csv` and `per_query.csv` are tidy; `results.json` holds the first two, the weights
        and the notes; `runs/SET.SYSTEM.trec` and `qrels/SET.trec` are in TREC's format for trec_eval, ranx and others.

        Raises:
            UserError: the folder cannot be written.
        """
        folder, written = Path(folder), []
        per_query = self.per_query.assign(retrieved=self.per_query.retrieved.map(" ".join)).drop(columns="cluster")
        frames = {"metrics": self.table, "differences": self.differences, "per_query": per_query}
        for name, frame in frames.items():
            written.append(write_atomic(folder / f"{name}.csv", frame.to_csv(index=False)))
        results = {
            "base": self.base, "tuned": self.tuned, "weights": self.weights, "notes": self.notes,
            "metrics": json.loads(self.table.to_json(orient="records")),
            "differences": json.loads(self.differences.to_json(orient="records")),
        }  # fmt: skip
        written.append(write_atomic(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False)))
        for question_set, dataset in self.datasets.items():
            lines = [
                f"{_token(query)} 0 {_token(chunk)} {grade:g}"
                for query, grades in relevance(dataset).items() for chunk, grade in grades.items()
            ]  # fmt: skip
            written.append(write_atomic(folder / "qrels" / f"{slug(question_set)}.trec", "\n".join(lines) + "\n"))
            for system, ranking in self.rankings[question_set].items():
                file = folder / "runs" / f"{slug(question_set)}.{slug(system)}.trec"
                written.append(write_atomic(file, trec_run(dataset, ranking, system)))
        return written


def slug(name: str) -> str:
    """Return a name without spaces or marks, for files and TREC run tags."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-").lower() or "unnamed"


def _token(name: str) -> str:
    return re.sub(r"\s+", "_", name)


def trec_run(dataset, ranking: Ranking, system: str) -> str:
    """Return a ranking in TREC's run format: `query Q0 chunk rank score tag`.

    trec_eval sorts by score in single precision and ignores the rank, so equal scores are lowered by the least step.
    """
    ids, lines = [_token(chunk) for chunk in dataset.corpus], []
    for query, index, scores in zip(dataset.queries, ranking.index, ranking.score, strict=True):
        last = np.float32(np.inf)
        for rank, (chunk, score) in enumerate(zip(index, scores, strict=True), start=1):
            if chunk < 0:
                break
            last = min(np.float32(score), np.nextafter(last, np.float32(-np.inf)))
            lines.append(f"{_token(query)} Q0 {ids[chunk]} {rank} {last!s} {slug(system)}\n")
    return "".join(lines)


def compare_models(
    dataset,
    models: "Mapping[str, Model | None] | Sequence[Model]",
    top_k: int = 5,
    *,
    base: str | None = None,
    tuned: str | None = None,
    compared_length: bool = True,
    bm25: bool = True,
    hybrid: bool = True,
    dev=None,
    bf16: bool | None = False,
    cache: str | Path | bool | None = None,
    draws: int = 2000,
    seed: int = 0,
    verbose: bool = True,
) -> Comparison:
    """Compare models on one or several question sets, with BM25 and hybrid search beside them.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs` (ids, or id -> grade); or a mapping from the
            name of a question set to such a dataset.
        models: system name -> model (a name, a LlamaIndex embedding, a SentenceTransformer; None leaves it out with
            a note, as does an `openai:` one without a key or that fails), or a list of models. Unless told otherwise the first is the base, and the one with "tuned" in its
            name, or else the second, the fine-tuned one.
        top_k: one more cut-off for hit rate and recall, beside 1, 3, 5 and 10.
        base: the system that differences are taken from.
        tuned: the fine-tuned system.
        compared_length: add the base read to as many tokens as the fine-tuned model where these differ.
        bm25: add a BM25 row.
        hybrid: add reciprocal rank fusion of each dense system with BM25.
        dev: development dataset, apart from all that is reported, on which each hybrid's weight is chosen (best
            nDCG@10 of 0.1, 0.2, … 0.9); without it the weight is 0.5.
        bf16: compute in bfloat16; None is where it pays.
        cache: folder of the embedding cache, False for none.
        draws: bootstrap samples.
        seed: of the random draws.
        verbose: show progress and print the notes.

    Raises:
        UserError: no model, an unknown `base` or `tuned`, a dataset without questions, a model that cannot be loaded.
    """
    import pandas as pd

    datasets = dict(dataset) if isinstance(dataset, Mapping) else {"questions": dataset}
    for name, data in datasets.items():
        try:
            relevance(data)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    if not isinstance(models, Mapping):
        models = {Path(str(m)).name if isinstance(m, str | Path) else f"model {i}": m for i, m in enumerate(models, 1)}
    _check_top_k(top_k)
    notes: list[str] = []
    present = _present(models, notes)
    names = list(present)
    base = base or (names[0] if names else None)
    others = [name for name in names if name != base]
    tuned = tuned or next((name for name in others if "tuned" in name.lower()), next(iter(others), None))
    for label, name in (("base", base), ("tuned", tuned)):
        if name is not None and name not in present:
            raise UserError(f"{label} is {name!r}, which is not among the models: {', '.join(names)}.")
    if base is None:
        raise UserError("models holds no model that can be run. Name at least a base model.")

    store = EmbeddingCache(cache)
    everything = dict(datasets) | ({"": dev} if dev is not None else {})
    rankings: dict[str, dict[str, Ranking]] = {name: {} for name in everything}
    costs = []
    asked = list(dict.fromkeys(text for data in everything.values() for text in data.queries.values()))
    searched = list(dict.fromkeys(text for data in everything.values() for text in data.corpus.values()))
    rows = [{text: i for i, text in enumerate(texts)} for texts in (asked, searched)]

    def run(system: str, model) -> None:
        import time

        start, before = time.perf_counter(), store.embedded
        queries, corpus = _embed_texts(asked, searched, model, store, bf16=bf16)
        for name, data in everything.items():
            own_queries = queries[[rows[0][text] for text in data.queries.values()]]
            own_corpus = corpus[[rows[1][text] for text in data.corpus.values()]]
            rankings[name][system] = vector_search(own_queries, own_corpus, list(data.corpus))
        costs.append(_cost(system, model, corpus.shape[1], store.embedded - before, time.perf_counter() - start))

    lengths = {}
    for system in progress(list(names), desc="models", unit="model", disable=not verbose):
        try:
            model = _load(present[system])
            run(system, model)
        except Exception as error:  # whatever a service says, the other systems are worth reporting
            if system in (base, tuned) or not str(present[system]).startswith("openai:"):
                raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            notes.append(f"{system} was left out: {reason}")
            names.remove(system)
            continue
        inner = sentence_transformer(model)
        lengths[system] = inner.max_seq_length if inner is not None else None
        del model, inner
    if compared_length and tuned and lengths[base] and lengths[tuned] and lengths[base] != lengths[tuned]:
        model = _load(present[base])
        inner = sentence_transformer(model)
        shipped, inner.max_seq_length = inner.max_seq_length, lengths[tuned]
        longer = f"{base}, {lengths[tuned]} tokens"
        try:
            run(longer, model)
        finally:
            inner.max_seq_length = shipped
        names.insert(names.index(base) + 1, longer)
    weights = {}
    for name, data in everything.items():
        if bm25 or hybrid:
            lexical = bm25_search(list(data.queries.values()), list(data.corpus.values()), list(data.corpus))
            rankings[name][BM25] = lexical
    systems = [*names, BM25] if bm25 else list(names)
    if hybrid:
        for system in names:
            weights[f"{system} + BM25"] = _hybrid_weight(dev, rankings.get(""), system)
            systems.append(f"{system} + BM25")
            for name, data in datasets.items():
                pair = rankings[name][system], rankings[name][BM25]
                rankings[name][systems[-1]] = fuse(*pair, list(data.corpus), weights[systems[-1]])
        if dev is not None:
            shares = ", ".join(f"{system.removesuffix(' + BM25')} {weight}" for system, weight in weights.items())
            notes.append(
                f"Hybrid search: share of the dense ranking chosen on the development questions: {shares}. It suits "
                "questions like those."
            )
        else:
            notes.append("Hybrid search weighs both rankings alike: no development questions were given to choose by.")
    rankings.pop("", None)
    ordered = {name: {system: rankings[name][system] for system in systems} for name in datasets}
    per_query = pd.concat(
        [_per_query(name, datasets[name], system, ranking, top_k) for name in ordered
         for system, ranking in ordered[name].items()], ignore_index=True,
    )  # fmt: skip
    metrics = [column for column in per_query if "@" in column]
    table, differences = _statistics(per_query, metrics, base, draws, seed)
    if verbose:
        for note in notes:
            print(note)
    return Comparison(
        per_query, table, differences, ordered, datasets, base, weights, notes, pd.DataFrame(costs), tuned
    )


def _present(models: "Mapping[str, Model | None]", notes: list[str]) -> "dict[str, Model]":
    from nbutils.models.names import has_key

    present = {}
    for system, model in models.items():
        if model is None:
            notes.append(f"{system} was left out.")
        elif isinstance(model, str) and not has_key(model):
            notes.append(f"{system} was left out: OPENAI_API_KEY is not set.")
        else:
            present[system] = model
    return present


def _cost(system: str, model, dimensions: int, embedded: int, seconds: float) -> dict:
    inner = sentence_transformer(model)
    return {
        "system": system,
        "parameters": sum(p.numel() for p in inner.parameters()) if inner is not None else None,
        "dimensions": dimensions,
        "max_seq_length": inner.max_seq_length if inner is not None else None,
        "embedded": embedded,
        "seconds": round(seconds, 2),
    }


def _hybrid_weight(dev, rankings: dict[str, Ranking] | None, system: str) -> float:
    if dev is None:
        return 0.5
    grid = [0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9]  # of equally good ones the most even
    ids = list(dev.corpus)
    scores = [
        ranking_metrics(dev, fuse(rankings[system], rankings[BM25], ids, weight))["ndcg@10"].mean() for weight in grid
    ]
    return grid[int(np.argmax(scores))]


def _gains(dataset, ranking: Ranking) -> tuple[np.ndarray, list[np.ndarray]]:
    position = {chunk: i for i, chunk in enumerate(dataset.corpus)}
    gains, ideal = np.zeros(ranking.index.shape), []
    for row, grades in enumerate(relevance(dataset).values()):
        ideal.append(np.array(list(grades.values())))
        for chunk, grade in grades.items():
            gains[row, ranking.index[row] == position[chunk]] = grade
    return gains, ideal


def ranking_metrics(dataset, ranking: Ranking, top_k: int = 5) -> dict[str, np.ndarray]:
    """Return the metrics of each question for a ranking; see `nbutils.evaluation.stats.query_metrics`."""
    return query_metrics(*_gains(dataset, ranking), top_k)


def _per_query(question_set: str, dataset, system: str, ranking: Ranking, top_k: int) -> "pd.DataFrame":
    import pandas as pd

    gains, ideal = _gains(dataset, ranking)
    ids = list(dataset.corpus)
    hits = gains > 0
    expected = [next(iter(grades)) for grades in relevance(dataset).values()]
    return pd.DataFrame(
        {
            "question_set": question_set,
            "system": system,
            "query": list(dataset.queries),
            "question": list(dataset.queries.values()),
            "expected": expected,
            "cluster": expected,
            "rank": np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, np.nan),
            "retrieved": [[ids[i] for i in row[: max(10, top_k)] if i >= 0] for row in ranking.index],
        }
        | query_metrics(gains, ideal, top_k)
    )


def _statistics(per_query: "pd.DataFrame", metrics: list[str], base: str, draws: int, seed: int):
    import pandas as pd

    table, differences = [], []
    for question_set, part in per_query.groupby("question_set", sort=False):
        reference = part[part.system == base][metrics].to_numpy()
        rows_of_set = []
        for system, rows in part.groupby("system", sort=False):
            values, clusters = rows[metrics].to_numpy(), rows.cluster.to_numpy()
            low, high = bootstrap_intervals(values, clusters, draws=draws, seed=seed)
            labels = {"question_set": question_set, "system": system}
            counts = {"questions": len(rows), "chunks": rows.cluster.nunique()}
            for i, metric in enumerate(metrics):
                interval = {"value": values[:, i].mean(), "low": low[i], "high": high[i]}
                table.append(labels | {"metric": metric} | interval | counts)
            if system == base:
                continue
            paired = values - reference
            low, high = bootstrap_intervals(paired, clusters, draws=draws, seed=seed)
            p = permutation_p(paired, clusters, seed=seed)
            for i, metric in enumerate(metrics):
                interval = {"difference": paired[:, i].mean(), "low": low[i], "high": high[i], "p": p[i]}
                wins, losses = int((paired[:, i] > 1e-12).sum()), int((paired[:, i] < -1e-12).sum())
                sides = {"wins": wins, "losses": losses, "ties": len(rows) - wins - losses}
                rows_of_set.append(labels | {"base": base, "metric": metric} | interval | sides | counts)
        frame = pd.DataFrame(rows_of_set)
        if len(frame):
            frame.insert(frame.columns.get_loc("p") + 1, "p_holm", frame.groupby("metric")["p"].transform(holm))
        differences.append(frame)
    return pd.DataFrame(table), pd.concat(differences, ignore_index=True)
