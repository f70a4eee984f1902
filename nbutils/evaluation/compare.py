"""A comparison of models that can be believed: every metric, keyword search beside them, intervals, paired tests."""

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from nbutils.core import UserError, asked, first_line, progress
from nbutils.evaluation.documents import document_metrics
from nbutils.evaluation.export import distinct, save_comparison
from nbutils.evaluation.stats import statistics
from nbutils.evaluation.walkthrough import as_model, check_top_k, embed_texts, is_service, relevance
from nbutils.models.hybrid import NamedDocuments, fuse
from nbutils.models.metrics import query_metrics
from nbutils.models.names import is_static, longest_input
from nbutils.models.search import DEPTH, Ranking, any_vector_search, bm25_search, vector_search
from nbutils.models.vectors import EmbeddingCache, sentence_transformer
from nbutils.questions.dataset import names_of, passages
from nbutils.questions.llms import has_key

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.schema import TextNode

    from nbutils.evaluation.walkthrough import Model

METRICS = ("hit_rate@1", "hit_rate@3", "hit_rate@5", "hit_rate@10", "mrr@10", "ndcg@10", "map@100")
BM25 = "BM25"


def hybrid_name(system: str) -> str:
    """Return the name of the hybrid of a dense system with BM25."""
    return f"{system} + {BM25}"


def queries_name(system: str) -> str:
    """Return the name of a dense system that finds a chunk by its generated queries too."""
    return f"{system} + index queries"


def bare_name(system: str) -> str:
    """Return the name of a dense system that searches the chunks without their headers."""
    return f"{system}, no headers"


def _named_name(system: str) -> str:
    """Return the name of a dense system's search of the documents that a question names: a part of its hybrid."""
    return f"{system}, named documents"


@dataclass
class Comparison:
    """What `compare_models` found.

    Args:
        per_query: one row for each question set, system and question: `question_set`, `system`, `query`, `question`,
            `expected` (chunk id; the first of several), `cluster` (the chunk whose questions are drawn together, also
            the first), `rank` of the best relevant chunk (from 1; NaN beyond rank 100),
            `retrieved` (the first ids), and one column for each metric.
        table: tidy means: `question_set`, `system`, `metric`, `value`, `low`, `high` (95 % interval), `questions`.
        differences: tidy paired differences from the base: `question_set`, `system`, `base`, `metric`, `difference`,
            `low`, `high`, `p`, `p_holm`, `wins`, `losses`, `ties`, `questions`, `chunks`. `p` is that of a paired
            permutation test, `p_holm` corrected (Holm) for all systems compared on a question set, metric by metric.
        contrasts: the same for other pairs that `verdict` asks about; there `base` names the second of each pair.
        rankings: question set -> system -> Ranking (100 deep).
        datasets: question set -> dataset.
        base: name of the system that differences are taken from.
        tuned: name of the fine-tuned system, if there is one.
        same_length: name of the base read to as many tokens as the fine-tuned model, where these differ.
        human: names of the question sets that people wrote.
        notes: what a reader must know, e.g. which systems were left out and why.
        costs: one row per dense system: `system`, `parameters`, `dimensions`, `max_seq_length` (tokens), `prompts`
            (whether it puts any before texts), `embedded` (texts not in the cache), `seconds` for embedding and search.
    """

    per_query: "pd.DataFrame"
    table: "pd.DataFrame"
    differences: "pd.DataFrame"
    contrasts: "pd.DataFrame"
    rankings: dict[str, dict[str, Ranking]]
    datasets: dict[str, object]
    base: str
    tuned: str | None = None
    same_length: str | None = None
    human: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    costs: "pd.DataFrame | None" = None

    @property
    def decisive(self) -> str:
        """The question set that decides: the largest that people wrote and that judges the tuned system, else the first."""
        judged = self.per_query[self.per_query.system == (self.tuned or self.base)].question_set.unique()
        sets = [name for name in self.datasets if name in judged]
        by_people = [name for name in sets if name in self.human]
        return max(by_people, key=lambda name: len(self.datasets[name].queries)) if by_people else sets[0]

    def summary(self, metrics: Sequence[str] | None = None, question_set: str | None = None) -> "pd.DataFrame":
        """Return a table to read: one row per question set and system, one column per metric, "value [low–high]".

        The default metrics are `METRICS` and, where several documents were searched, those of `document_metrics`.
        """
        if metrics is None:
            metrics = [*METRICS, *(name for name in self.table.metric.unique() if "_file" in name)]
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
        """Write the results to `folder` and return the files; see `nbutils.evaluation.export.save_comparison`."""
        return save_comparison(self, folder)


def compare_models(
    dataset,
    models: "Mapping[str, Model | None] | Sequence[Model]",
    top_k: int = 5,
    *,
    nodes: "Sequence[TextNode] | None" = None,
    base: str | None = None,
    tuned: str | None = None,
    leave_out: Mapping[str | None, Sequence[str]] = MappingProxyType({}),
    by_folds: Mapping[str | None, Path] = MappingProxyType({}),
    human: Sequence[str] = (),
    compared_length: bool = True,
    bm25: bool = True,
    hybrid: bool = True,
    index_queries=None,
    bf16: bool | None = False,
    cache: str | Path | bool | None = None,
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    verbose: bool = True,
) -> Comparison:
    """Compare models on one or several question sets, with BM25 and hybrid search beside them.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs` (ids, or id -> grade); or a mapping from the
            name of a question set to such a dataset. Where its chunks have headers (`CHUNK_HEADER`), each dense system is
            searched without them, too.
        models: system name -> model (a name, a LlamaIndex embedding, a SentenceTransformer; None leaves it out with
            a note, as does an `openai:` one without a key or that fails), or a list of models, which are called by
            as much of their names as tells them apart. Texts go to no service that is not named here.
        top_k: one more cut-off for hit rate and recall, beside 1, 3, 5 and 10.
        nodes: the chunks; with them, where they are of several files, the tables also say whether the right document
            was found (see `nbutils.evaluation.documents.document_metrics`).
        base: the system that differences are taken from; default is the first.
        tuned: the fine-tuned system; default is the one with "tuned" in its name, else the second.
        leave_out: system -> question sets that it is not to be judged by, such as those it was trained on.
        by_folds: system -> folder that `nbutils.training.deploy.learn_questions` wrote: a question about a chunk of a
            fold is searched with that fold's model, which has learned no question about the chunk.
        human: names of the question sets that people wrote, beside those that say so themselves (`dataset.human`).
        compared_length: add the base read to as many tokens as the fine-tuned model where these differ.
        bm25: add a BM25 row.
        hybrid: add reciprocal rank fusion of each dense system with BM25, weighed alike: a weight that suits questions
            written by a model does not suit people's. Where several documents are searched and a question shares
            words with their names (`dataset.names`, else those of `nodes`), a third ranking is of their chunks (see
            `nbutils.models.hybrid.NamedDocuments`).
        index_queries: a dataset of queries generated for the chunks, such as those of training. Each dense system gets
            one more row, in which a chunk is found by the nearest of its own vector and those of its queries. A note
            says how many vectors that takes. A question set that holds one of these queries is not judged so. What it
            gave, good with a language model's queries and bad with the offline generator's, is in docs/benchmarks.md.
        bf16: compute in bfloat16; None is where it pays.
        cache: folder of the embedding cache, False for none.
        level: coverage of the intervals.
        draws: bootstrap samples.
        seed: of the random draws.
        verbose: show progress and print the notes.

    Raises:
        UserError: no model, an unknown `base` or `tuned`, a dataset without questions, a model that cannot be loaded.
    """
    import pandas as pd

    check_top_k(top_k)
    datasets = _question_sets(dataset)
    notes: list[str] = []
    systems = _systems(models, notes)
    base, tuned = _roles(list(systems), base, tuned)
    named = {name: _named_documents(data, nodes) if hybrid else None for name, data in datasets.items()}
    search = _DenseSearch(datasets, EmbeddingCache(cache), bf16, index_queries, by_folds, named)
    same_length = _search_with_models(search, systems, base, tuned, compared_length, notes, verbose)
    order = [system for system in (base, same_length, *systems) if system]
    rankings = {}
    for name, found in search.rankings.items():
        judged = [system for system in order if system in found and name not in leave_out.get(system, ())]
        rankings[name] = _with_keywords(datasets[name], found, judged, bm25, hybrid)
        rankings[name] |= {each: found[each] for each in map(queries_name, judged) if each in found}
        bare = [each for each in map(bare_name, judged) if each in found]
        rankings[name] |= _with_keywords(_without_headers(datasets[name]), found, bare, False, hybrid) if bare else {}
    if hybrid:
        notes.append("Hybrid search weighs its rankings alike.")
        for name in filter(named.get, datasets):
            if naming := int((search.rankings[name][_named_name(base)].index[:, 0] >= 0).sum()):
                told = f"{naming} of the {len(datasets[name].queries)} {asked(name)} share words with one"
                notes.append(f"Hybrid search also ranks documents by their names: {told}.")
    for system in filter(systems.get, by_folds):
        notes.append(f"{system} has learned people's questions; each is judged by a model that has not learned it.")
    for name, texts in search.index_queries.items():
        if texts:
            chunks = len(datasets[name].corpus)
            notes.append(
                f"With index queries the {asked(name)} are searched in {chunks + len(texts)} vectors, not {chunks}."
            )
    for name, data in datasets.items():
        if judged_by := getattr(data, "judged_by", ""):
            notes.append(f"What is relevant to the {asked(name)}: {judged_by}.")
    per_query = pd.concat(
        [query_rows(name, datasets[name], system, ranking, top_k, nodes) for name in datasets
         for system, ranking in rankings[name].items()], ignore_index=True,
    )  # fmt: skip
    pairs = _pairs_of_interest(base, tuned, same_length)
    table, differences, contrasts = statistics(per_query, base, pairs, draws=draws, seed=seed, level=level)
    by_people = {name for name, data in datasets.items() if name in human or getattr(data, "human", False)}
    if verbose:
        print(*notes, sep="\n")
    return Comparison(
        per_query, table, differences, contrasts, rankings, datasets, base, tuned, same_length, by_people, notes,
        pd.DataFrame(search.costs),
    )  # fmt: skip


def _question_sets(dataset) -> dict[str, object]:
    datasets = dict(dataset) if isinstance(dataset, Mapping) else {"questions": dataset}
    for name, data in datasets.items():
        try:
            relevance(data)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return datasets


def _systems(models: "Mapping[str, Model | None] | Sequence[Model]", notes: list[str]) -> "dict[str, Model]":
    """Return the models that can be run by their names; a note says which are left out."""
    named = models if isinstance(models, Mapping) else dict(zip(_names(models), models, strict=True))
    systems = {}
    for system, model in named.items():
        if model is None:
            notes.append(f"{system} was left out.")
        elif isinstance(model, str) and not has_key(model):
            notes.append(f"{system} was left out: OPENAI_API_KEY is not set.")
        else:
            systems[system] = model
    if not systems:
        raise UserError("models holds no model that can be run. Name at least a base model.")
    return systems


def _names(models: "Sequence[Model]") -> list[str]:
    """Return as many of the last parts of each path as tell the models apart: every run's folder is called model."""
    paths = [
        Path(model).parts if isinstance(model, str | Path) else (f"model {i}",) for i, model in enumerate(models, 1)
    ]
    names: list[str] = []
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return distinct(names)


def _roles(names: list[str], base: str | None, tuned: str | None) -> tuple[str, str | None]:
    base = base or names[0]
    others = [name for name in names if name != base]
    tuned = tuned or next((name for name in others if "tuned" in name.lower()), next(iter(others), None))
    for label, name in (("base", base), ("tuned", tuned)):
        if name is not None and name not in names:
            raise UserError(f"{label} is {name!r}, which is not among the models: {', '.join(names)}.")
    return base, tuned


class _DenseSearch:
    """Searches all question sets with one model after another, each text embedded once per model."""

    def __init__(
        self, datasets: dict[str, object], store: EmbeddingCache, bf16: bool | None, index_queries,
        by_folds: Mapping[str | None, Path], named: dict[str, NamedDocuments | None],
    ):  # fmt: skip
        self.datasets, self.store, self.bf16, self.by_folds = datasets, store, bf16, by_folds
        self.rankings: dict[str, dict[str, Ranking]] = {name: {} for name in datasets}
        self.index_queries = {name: _queries_of(data, index_queries) for name, data in datasets.items()}
        self.named = named
        self.costs: list[dict] = []
        self.queries = list(dict.fromkeys(text for data in datasets.values() for text in data.queries.values()))
        both = [part for data in datasets.values() for part in (passages(data), data.corpus)]
        self.corpus = list(dict.fromkeys(text for texts in both for text in texts.values()))

    def run(self, system: str, model) -> None:
        start, before = time.perf_counter(), self.store.embedded
        dimensions = self._search(system, model)
        if system in self.by_folds:
            folder = Path(self.by_folds[system])
            fold_of = json.loads((folder / "folds.json").read_text(encoding="utf-8"))
            for fold in sorted(set(fold_of.values())):
                about = {chunk for chunk, number in fold_of.items() if number == fold}
                self._search(system, as_model(folder / str(fold)), about)
        inner = sentence_transformer(model)
        self.costs.append(
            {
                "system": system,
                "parameters": sum(p.numel() for p in inner.parameters()) if inner is not None else None,
                "dimensions": dimensions,
                "max_seq_length": None if inner is None or is_static(inner) else inner.max_seq_length,
                "prompts": inner is not None and any(inner.prompts.values()),
                "embedded": self.store.embedded - before,
                "seconds": round(time.perf_counter() - start, 2),
            }
        )

    def _search(self, system: str, model, about: set[str] | None = None) -> int:
        """Search all question sets, or only the questions about some chunks again; return the vectors' dimensions."""
        queries, corpus = embed_texts(self.queries, self.corpus, model, self.store, bf16=self.bf16)
        query_row, chunk_row = ({text: i for i, text in enumerate(texts)} for texts in (self.queries, self.corpus))
        for name, data in self.datasets.items():
            asked = queries[[query_row[text] for text in data.queries.values()]]
            searched = corpus[[chunk_row[text] for text in passages(data).values()]]
            vectors = {system: searched}
            if getattr(data, "headers", None):
                vectors[bare_name(system)] = corpus[[chunk_row[text] for text in data.corpus.values()]]
            found = {each: search_vectors(data, asked, chunks) for each, chunks in vectors.items()}
            if named := self.named[name]:
                questions, ids = list(data.queries.values()), list(data.corpus)
                for each, chunks in vectors.items():
                    found[_named_name(each)] = named.search(questions, asked, chunks, ids)
            if texts := self.index_queries[name]:
                more = self.store.embed(model, [text for text, _ in texts], "query", bf16=self.bf16)
                owner = np.array([chunk for _, chunk in texts])
                found[queries_name(system)] = search_vectors(data, asked, searched, more, owner)
            if about is None:
                self.rankings[name] |= found
                continue
            rows = [i for i, chunks in enumerate(relevance(data).values()) if not about.isdisjoint(chunks)]
            for each, ranking in found.items():
                whole = self.rankings[name][each]
                whole.index[rows], whole.score[rows] = ranking.index[rows], ranking.score[rows]
        return corpus.shape[1]


def _search_with_models(
    search: _DenseSearch, systems: "dict[str, Model]", base: str, tuned: str | None, compared_length: bool,
    notes: list[str], verbose: bool,
) -> str | None:  # fmt: skip
    """Search with each model, and with the base read to the fine-tuned model's length; return the latter's name."""
    for system in progress(list(systems), desc="models", unit="model", disable=not verbose):
        try:
            model = as_model(systems[system])
            search.run(system, model)
        except Exception as error:  # whatever a service says, the other systems are worth reporting
            if system in (base, tuned) or not is_service(systems[system]):
                raise
            notes.append(f"{system} was left out: {first_line(error)}")
            continue
        del model
    lengths = {row["system"]: row["max_seq_length"] for row in search.costs}
    if not compared_length or not tuned or not lengths[base] or not lengths[tuned]:
        return None
    model = as_model(systems[base])
    inner = sentence_transformer(model)
    length, shipped = min(lengths[tuned], longest_input(inner)), inner.max_seq_length
    if length == shipped:
        return None
    name = f"{base}, {length} tokens"
    inner.max_seq_length = length
    try:
        search.run(name, model)
    finally:
        inner.max_seq_length = shipped
    return name


def _search(dataset, search: Callable[[np.ndarray, np.ndarray, list[str]], Ranking]) -> Ranking:
    """Search all chunks, or where the dataset says to what document a chunk belongs, each question's own document."""
    documents, ids = getattr(dataset, "documents", None) or {}, np.array(list(dataset.corpus), dtype=object)
    of_chunk = np.array([documents.get(chunk, "") for chunk in dataset.corpus])
    of_query = np.array([documents.get(next(iter(found)), "") for found in relevance(dataset).values()])
    index = np.full((len(of_query), min(DEPTH, len(ids))), -1, dtype=np.int64)
    score = np.full(index.shape, -np.inf)
    for document in np.unique(of_query):
        rows, columns = np.flatnonzero(of_query == document), np.flatnonzero(of_chunk == document)
        found = search(rows, columns, list(ids[columns]))
        width = found.index.shape[1]
        index[rows, :width] = np.where(found.index >= 0, columns[found.index], -1)
        score[rows, :width] = found.score
    return Ranking(index, score)


def search_vectors(
    dataset, queries: np.ndarray, corpus: np.ndarray, more: np.ndarray | None = None, owner: np.ndarray | None = None
) -> Ranking:
    """Return the ranking of the chunks for each question; see `vector_search`, or with `more` `any_vector_search`."""
    if more is None:
        return _search(dataset, lambda rows, columns, ids: vector_search(queries[rows], corpus[columns], ids))

    def search(rows: np.ndarray, columns: np.ndarray, ids: list[str]) -> Ranking:
        there = np.isin(owner, columns)
        return any_vector_search(
            queries[rows], corpus[columns], more[there], np.searchsorted(columns, owner[there]), ids
        )

    return _search(dataset, search)


def _queries_of(dataset, index_queries) -> list[tuple[str, int]]:
    """Return the queries generated for a dataset's chunks, each with its chunk's position; none if one of them is asked."""
    if index_queries is None or set(index_queries.queries.values()) & set(dataset.queries.values()):
        return []
    position = {chunk: i for i, chunk in enumerate(dataset.corpus)}
    return [
        (text, position[chunk])
        for query, text in index_queries.queries.items()
        for chunk in index_queries.relevant_docs[query]
        if chunk in position
    ]


def _named_documents(dataset, nodes: "Sequence[TextNode] | None") -> NamedDocuments | None:
    """Return what finds the documents that questions name, where they are searched in several at once."""
    if getattr(dataset, "documents", None):
        return None
    known = getattr(dataset, "names", {}) or names_of(nodes or ())
    names = [known.get(chunk, "") for chunk in dataset.corpus]
    return NamedDocuments(names, list(dataset.corpus.values())) if len({*names}) > 1 else None


def _without_headers(dataset):
    bare = copy.copy(dataset)
    bare.headers = {}
    return bare


def _with_keywords(
    dataset, found: dict[str, Ranking], systems: Sequence[str], bm25: bool, hybrid: bool
) -> dict[str, Ranking]:
    """Return the rankings found by these dense systems, and BM25's and the hybrids'."""
    rankings = {system: found[system] for system in systems}
    if not bm25 and not hybrid:
        return rankings
    ids = list(dataset.corpus)
    queries, texts = (np.array(list(part.values()), dtype=object) for part in (dataset.queries, passages(dataset)))
    lexical = _search(dataset, lambda rows, columns, ids: bm25_search(queries[rows], texts[columns], ids))
    rankings |= {BM25: lexical} if bm25 else {}
    for system in systems if hybrid else ():
        parts = [found[system], lexical, *filter(None, [found.get(_named_name(system))])]
        rankings[hybrid_name(system)] = fuse(parts, ids)
    return rankings


def _gains(dataset, ranking: Ranking) -> tuple[np.ndarray, list[np.ndarray]]:
    position = {chunk: i for i, chunk in enumerate(dataset.corpus)}
    gains, ideal = np.zeros(ranking.index.shape), []
    for row, grades in enumerate(relevance(dataset).values()):
        ideal.append(np.array(list(grades.values())))
        for chunk, grade in grades.items():
            gains[row, ranking.index[row] == position[chunk]] = grade
    return gains, ideal


def ranking_metrics(dataset, ranking: Ranking, top_k: int = 5) -> dict[str, np.ndarray]:
    """Return the metrics of each question for a ranking; see `nbutils.models.metrics.query_metrics`."""
    return query_metrics(*_gains(dataset, ranking), top_k)


def query_rows(
    question_set: str, dataset, system: str, ranking: Ranking, top_k: int = 5, nodes: "Sequence[TextNode] | None" = None
) -> "pd.DataFrame":
    """Return the rows of `Comparison.per_query` for one ranking; see `compare_models`."""
    import pandas as pd

    gains, ideal = _gains(dataset, ranking)
    ids, hits = list(dataset.corpus), gains > 0
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
        | document_metrics(dataset, ranking, nodes, top_k)
    )


def _pairs_of_interest(base: str, tuned: str | None, same_length: str | None) -> list[tuple[str, str]]:
    """Return the pairs beside those with the base that the verdict asks about."""
    pairs = [(hybrid_name(base), BM25)]
    for system in filter(None, (base, tuned)):
        pairs += [(system, bare_name(system)), (hybrid_name(system), hybrid_name(bare_name(system)))]
    if tuned:
        pairs += [(queries_name(tuned), tuned), (BM25, tuned), (hybrid_name(tuned), tuned), (hybrid_name(tuned), BM25)]
        pairs += [(tuned, same_length)] if same_length else []
    return pairs
