"""What filtering questions does to the fine-tuned model, on chunks held out from training.

    python benchmarks/filters_effect.py DATASET.json [--human FOLDER] [--variants none default …]

The chunks are split in two halves at random; a model trained on either half, with its questions filtered, is asked all
questions of the other, filtered or not, over all chunks. With `--human`, a folder of filings and questions that people
wrote (`human_questions/dev.jsonl`, `filings/*.pdf`), each question is also searched in its own filing.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from nbutils.common import UserError
from nbutils.dataset import EmbeddingQAFinetuneDataset
from nbutils.encoding import encode
from nbutils.filters import NO_FILTERS, Filters, drop_reasons, skip_reason
from nbutils.finetune import SentenceTransformersFinetuneEngine
from nbutils.providers import load_model

VARIANTS = {
    "none": NO_FILTERS,
    "default": Filters(),
    "no prose filter": Filters(prose=False),
    "no self-contained filter": Filters(self_contained=False),
    "no tables": Filters(bare_tables=False),
    "round trip BM25 10": Filters(round_trip=10),
    "round trip base 10": Filters(round_trip=10, round_trip_model="all-MiniLM-L6-v2"),
    "round trip base 5": Filters(round_trip=5, round_trip_model="all-MiniLM-L6-v2"),
}


def filtered(dataset, chunk_ids: set[str], filters: Filters) -> EmbeddingQAFinetuneDataset:
    """Return the part of the dataset about these chunks that passes the filters."""
    corpus = {chunk_id: text for chunk_id, text in dataset.corpus.items() if chunk_id in chunk_ids}
    asked = {chunk_id for chunk_id, text in corpus.items() if not skip_reason(text, filters)}
    ids = [query_id for query_id in dataset.queries if dataset.relevant_docs[query_id][0] in asked]
    reasons = drop_reasons([(dataset.relevant_docs[i][0], dataset.queries[i]) for i in ids], dataset.corpus, filters)
    kept = [query_id for query_id, reason in zip(ids, reasons, strict=True) if not reason]
    return EmbeddingQAFinetuneDataset(
        queries={i: dataset.queries[i] for i in kept},
        corpus=corpus,
        relevant_docs={i: dataset.relevant_docs[i] for i in kept},
    )


def hits(model, questions: list[str], answers: list[set[int]], texts: list[str], top: int = 5) -> np.ndarray:
    """Return for each question whether one of its chunks is among the `top` first, shape (questions,)."""
    scores = encode(model, questions, "query") @ encode(model, texts).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return np.array([bool(right & set(row.tolist())) for right, row in zip(answers, best, strict=True)])


def human_hits(model, folder: Path) -> np.ndarray:
    """Return the hits of people's questions, each in its own filing, shape (questions,)."""
    from nbutils.corpus import load_corpus

    rows = [json.loads(line) for line in (folder / "human_questions" / "dev.jsonl").read_text().splitlines()]
    found = []
    for document in sorted({row["document"] for row in rows}):
        nodes = load_corpus([folder / "filings" / document])
        texts = [node.get_content(metadata_mode="none") for node in nodes]
        pages = [int(node.metadata["page"]) for node in nodes]
        own = [row for row in rows if row["document"] == document]
        right = [{i for i, page in enumerate(pages) if page in row["pages"]} for row in own]
        found.append(hits(model, [row["question"] for row in own], right, texts))
    return np.concatenate(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--human", type=Path)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--length", type=int, default=256, help="tokens the model reads")
    options = parser.parse_args()
    try:
        dataset = EmbeddingQAFinetuneDataset.from_json(options.dataset)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    shuffled = random.Random(0).sample(list(dataset.corpus), len(dataset.corpus))
    halves = [set(shuffled[::2]), set(shuffled[1::2])]
    ids, texts = list(dataset.corpus), list(dataset.corpus.values())
    row = {chunk_id: number for number, chunk_id in enumerate(ids)}
    asked = [[i for i in dataset.queries if dataset.relevant_docs[i][0] in half] for half in halves]

    def measure(models: list) -> tuple[np.ndarray, np.ndarray]:
        held_out = [
            hits(model, [dataset.queries[i] for i in other], [{row[dataset.relevant_docs[i][0]]} for i in other], texts)
            for model, other in zip(models, reversed(asked), strict=True)
        ]
        human = [human_hits(model, options.human) for model in models] if options.human else [np.full(1, np.nan)]
        return np.concatenate(held_out), np.mean(human, axis=0)

    base = load_model("all-MiniLM-L6-v2", max_seq_length=options.length)
    before, human = measure([base, base])
    print(f"{'filters':26} {'questions':>9} {'held out hit@5':>15} {'people hit@5':>13}")
    print(f"{'(base model)':26} {'':9} {before.mean():15.3f} {human.mean():13.3f}", flush=True)
    for name in options.variants:
        models, count = [], 0
        for half in halves:
            train = filtered(dataset, half, VARIANTS[name])
            count += len(train.queries)
            with tempfile.TemporaryDirectory() as folder:
                engine = SentenceTransformersFinetuneEngine(
                    train,
                    model_output_path=Path(folder) / "model",
                    epochs=options.epochs,
                    max_seq_length=options.length,
                    dev_fraction=0,
                    show_progress_bar=False,
                )
                engine.finetune()
                models.append(engine.model)
        after, human = measure(models)
        print(f"{name:26} {count:9} {after.mean():15.3f} {human.mean():13.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
