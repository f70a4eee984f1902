"""What the questions one trains on do to the fine-tuned model: filtered or not, by a language model or offline.

    python benchmarks/questions_effect.py DATASET.json [--human FOLDER] [--variants given filtered offline …]
        [--train PDF …] [--engine '{"scale": 40}' …]

The chunks are split into the first and the second half of the document. For each variant a model is trained on either
half with the engine's defaults and asked all questions of the other half, as they are in DATASET.json, over all chunks.
With `--train`, one more model is trained on offline questions about those documents, in chunks of 1,024 tokens, and asked
everything: they should be others than those of DATASET.json. From that model, the halves are trained once more.

With `--engine`, a model is trained on the questions as given with each of these options of the engine: what a lever does.
All models read 512 tokens when they are asked, however they were trained.

With `--human`, a folder of filings and questions that people wrote (`human_questions/dev.jsonl`, `filings/*.pdf`), each
of those is searched in its own filing, in chunks of 1,024 tokens; a hit is a chunk from one of its pages.

Differences, with 95 % intervals from a bootstrap over chunks or questions, are from the base model reading as far as the
fine-tuned one, and for people's questions from the base model as shipped.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from nbutils.core import UserError
from nbutils.corpus.chunks import load_corpus
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.vectors import encode
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.filters import drop_reasons, skip_reason
from nbutils.questions.offline import OfflineQuestionWriter
from nbutils.questions.settings import NO_FILTERS, Filters
from nbutils.training.engine import LENGTH_THAT_PAYS, SentenceTransformersFinetuneEngine

FILTERED = {
    "given": NO_FILTERS,
    "filtered": Filters(),
    "all-filters-but-self-contained": Filters(self_contained=False),
    "round-trip-bm25": Filters(round_trip=10),
    "round-trip-base": Filters(round_trip=10, round_trip_model=DEFAULT_MODEL),
}
OFFLINE = {"offline": 2, "offline-4": 4}  # questions a chunk


def training_set(dataset, chunk_ids: list[str], variant: str) -> EmbeddingQAFinetuneDataset:
    """Return these chunks with the questions of a variant."""
    corpus = {chunk_id: dataset.corpus[chunk_id] for chunk_id in chunk_ids}
    if variant in OFFLINE:
        return offline_questions(corpus, OFFLINE[variant])
    filters = FILTERED[variant]
    about = {query_id: ids[0] for query_id, ids in dataset.relevant_docs.items() if ids[0] in corpus}
    asked = [q for q, chunk_id in about.items() if not skip_reason(corpus[chunk_id], filters)]
    reasons = drop_reasons([(about[q], dataset.queries[q]) for q in asked], dataset.corpus, filters)
    kept = [q for q, reason in zip(asked, reasons, strict=True) if not reason]
    return EmbeddingQAFinetuneDataset(
        queries={q: dataset.queries[q] for q in kept},
        corpus=corpus,
        relevant_docs={q: [about[q]] for q in kept},
    )


def offline_questions(corpus: dict[str, str], number: int) -> EmbeddingQAFinetuneDataset:
    """Return chunks with the offline writer's questions about each."""
    writer = OfflineQuestionWriter.for_corpus(corpus.values())
    asked = {c: writer.questions(text, number) for c, text in corpus.items()}
    queries = {f"{c}-{n}": question for c, questions in asked.items() for n, question in enumerate(questions)}
    relevant = {f"{c}-{n}": [c] for c, questions in asked.items() for n in range(len(questions))}
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)


def tuned(train: EmbeddingQAFinetuneDataset, folder: Path, base: str | Path = DEFAULT_MODEL, **options):
    """Return the model that the engine makes of a training set, reading 512 tokens, and write it to `folder`."""
    engine = SentenceTransformersFinetuneEngine(train, base, folder, show_progress_bar=False, **options)
    engine.finetune()
    engine.model.max_seq_length = LENGTH_THAT_PAYS
    return engine.model


def reciprocal_ranks(model, questions: list[str], answers: list[set[int]], texts: list[str]) -> np.ndarray:
    """Return one over the rank of each question's first right chunk, 0 beyond the tenth, shape (questions,)."""
    scores = encode(model, questions, "query") @ encode(model, texts).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    gains = np.array([np.isin(row, list(right)) for right, row in zip(answers, best, strict=True)])
    return np.where(gains.any(1), 1 / (gains.argmax(1) + 1), 0.0)


def people(folder: Path) -> list[tuple[list[str], list[set[int]], list[str]]]:
    """Return people's questions, the numbers of the chunks that answer them, and the chunks, for each filing."""
    rows = [json.loads(line) for line in (folder / "human_questions" / "dev.jsonl").read_text().splitlines()]
    found = []
    for document in sorted({row["document"] for row in rows}):
        nodes = load_corpus([folder / "filings" / document], chunk_size=1024, chunk_overlap=200)
        own = [row for row in rows if row["document"] == document]
        right = [{i for i, node in enumerate(nodes) if node.metadata["page"] in row["pages"]} for row in own]
        found.append(([row["question"] for row in own], right, [node.get_content() for node in nodes]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--human", type=Path)
    parser.add_argument("--train", nargs="*", default=[], help="documents to ask offline questions about")
    parser.add_argument("--variants", nargs="*", default=[*FILTERED, *OFFLINE], choices=[*FILTERED, *OFFLINE])
    parser.add_argument("--engine", nargs="*", default=[], type=json.loads, help="options of the engine, as JSON")
    options = parser.parse_args()
    dataset = EmbeddingQAFinetuneDataset.from_json(options.dataset)
    chunks = list(dataset.corpus)
    halves = [chunks[: len(chunks) // 2], chunks[len(chunks) // 2 :]]
    row = {chunk_id: number for number, chunk_id in enumerate(chunks)}
    tests = [[q for q, ids in dataset.relevant_docs.items() if ids[0] in set(half)] for half in reversed(halves)]
    clusters = [dataset.relevant_docs[q][0] for asked in tests for q in asked]
    filings = people(options.human) if options.human else []

    def measure(models: list) -> tuple[np.ndarray, np.ndarray]:
        held_out = [
            reciprocal_ranks(
                model, [dataset.queries[q] for q in asked], [{row[dataset.relevant_docs[q][0]]} for q in asked],
                list(dataset.corpus.values()),
            )
            for model, asked in zip(models, tests, strict=True)
        ]  # fmt: skip
        distinct = dict.fromkeys(models) if filings else ()
        human = [np.concatenate([reciprocal_ranks(model, *one) for one in filings]) for model in distinct]
        return np.concatenate(held_out), np.stack(human) if human else np.empty((2, 0))

    def cells(name: str, count: int | str, held_out: np.ndarray, human: np.ndarray) -> None:
        hit, gain = held_out >= 0.2, (held_out >= 0.2).astype(float) - (base >= 0.2)
        values = [name, count, f"{hit.mean():.3f}", f"{held_out.mean():.3f}", difference(gain, clusters)]
        if filings:
            gain = (human >= 0.2).mean(0) - (shipped_human >= 0.2).mean(0)
            values += [f"{(human >= 0.2).mean():.3f}", f"{human.mean():.3f}", difference(gain, range(len(gain)))]
        print("| " + " | ".join(map(str, values)) + " |", flush=True)

    print(
        "| questions | number | held out hit@5 | MRR@10 | difference |",
        "people hit@5 | MRR@10 | difference |" * bool(filings),
    )
    print("|---|---|---|---|---|" + "---|---|---|" * bool(filings))
    shipped = [load_model(DEFAULT_MODEL)] * 2
    base, shipped_human = measure(shipped)
    held = base
    base, base_human = measure([load_model(DEFAULT_MODEL, max_seq_length=LENGTH_THAT_PAYS)] * 2)
    cells("none: base as shipped", "", held, shipped_human)
    cells(f"none: base reading {LENGTH_THAT_PAYS} tokens", "", base, base_human)
    trains = {variant: [training_set(dataset, half, variant) for half in halves] for variant in options.variants}
    with tempfile.TemporaryDirectory() as temporary:
        model, first = Path(temporary) / "model", Path(temporary) / "first"
        for variant, sets in trains.items():
            count = sum(len(train.queries) for train in sets)
            cells(variant, count, *measure([tuned(train, model) for train in sets]))
        given = [training_set(dataset, half, "given") for half in halves]
        for lever in options.engine:
            models = [tuned(train, model, **lever) for train in given]
            cells(f"given, {json.dumps(lever)}", len(dataset.queries), *measure(models))
        if options.train:
            nodes = load_corpus(options.train, chunk_size=1024, chunk_overlap=200)
            train = offline_questions({node.node_id: node.get_content() for node in nodes}, OFFLINE["offline"])
            cells("offline, about --train", len(train.queries), *measure([tuned(train, first)] * 2))
            for variant, sets in trains.items():
                count = sum(len(train.queries) for train in sets)
                cells(f"… then {variant}", count, *measure([tuned(train, model, first) for train in sets]))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    print(f"\nMeasured on {datetime.date.today()} at commit {commit}.")
    return 0


def difference(gains: np.ndarray, clusters) -> str:
    low, high = (float(np.ravel(bound)[0]) for bound in bootstrap_intervals(gains[:, None], clusters))
    return f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
