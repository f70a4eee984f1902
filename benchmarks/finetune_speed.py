"""Fine-tune with nbutils and with the documented engine, each in a process of its own, on the same pairs.

    python benchmarks/finetune_speed.py DATASET.json [--held-out 0.25] [--engines llama-index nbutils]

DATASET.json is a question dataset, such as the Lyft set of the walkthrough. A share of its chunks is held out whole;
both engines train on the rest with their defaults and, as on the page, get the held-out questions over all chunks as
validation set, which the documented one evaluates on as it trains. Both are then asked the held-out questions over all chunks. Seconds are those of `finetune()`, memory is the peak of the process up to the
end of training. With `--lengths`, ours runs once more for each length, at which it trains and reads.
"""

import argparse
import datetime
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from nbutils.core import UserError
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

ROOT = Path(__file__).parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="question dataset, a JSON file")
    parser.add_argument("--held-out", type=float, default=0.25, help="share of the chunks that none trains on")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="base model")
    parser.add_argument("--engines", nargs="+", default=["llama-index", "nbutils"])
    parser.add_argument("--lengths", nargs="*", type=int, default=[], help="further lengths for ours, in tokens")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options, json.loads(options.worker))))
        return 0
    results = [measure("base", {})]
    for engine in options.engines:
        results.append(measure(engine, {}))
    for length in options.lengths:
        results.append(measure("nbutils", {"max_seq_length": length}))
    report(results, options)
    return 0


def measure(engine: str, settings: dict) -> dict:
    """Run one engine in a process of its own and return what it found."""
    task = json.dumps({"engine": engine, **settings})
    output = subprocess.run(
        [sys.executable, "-W", "ignore", *sys.argv, "--worker", task], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def work(options: argparse.Namespace, task: dict) -> dict:
    """Train with one engine, then search all chunks with the held-out questions."""
    from nbutils.training.documented import DocumentedEngine
    from nbutils.training.engine import SentenceTransformersFinetuneEngine
    from nbutils.training.split import search_scores

    data = EmbeddingQAFinetuneDataset.from_json(options.dataset)
    chunks = list(data.corpus)
    random.Random(0).shuffle(chunks)
    held_out = set(chunks[: round(len(chunks) * options.held_out)])
    asked = [q for q in data.queries if data.relevant_docs[q][0] in held_out]
    train = EmbeddingQAFinetuneDataset(
        queries={q: text for q, text in data.queries.items() if data.relevant_docs[q][0] not in held_out},
        corpus={chunk: text for chunk, text in data.corpus.items() if chunk not in held_out},
        relevant_docs={q: ids for q, ids in data.relevant_docs.items() if ids[0] not in held_out},
    )
    held_out_dataset = EmbeddingQAFinetuneDataset(
        queries={q: data.queries[q] for q in asked},
        corpus=dict(data.corpus),
        relevant_docs={q: data.relevant_docs[q] for q in asked},
    )
    engine, settings = task["engine"], {name: value for name, value in task.items() if name != "engine"}
    result = {"engine": " ".join([engine, *(str(value) for value in settings.values())])}
    if engine == "base":
        model = load_model(options.model)
    else:
        with tempfile.TemporaryDirectory() as folder:
            settings |= {"val_dataset": held_out_dataset, "show_progress_bar": False}
            kind = SentenceTransformersFinetuneEngine if engine == "nbutils" else DocumentedEngine
            trainer = kind(train, options.model, f"{folder}/model", **settings)
            trainer.finetune()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
            result |= {
                "seconds": trainer.summary["seconds"],
                "peak_gib": peak,
                "epochs": trainer.summary["recipe"]["epochs"],
            }
            model = load_model(f"{folder}/model")
    return result | search_scores(model, held_out_dataset) | {"reads": model.max_seq_length, "questions": len(asked)}


def report(results: list[dict], options: argparse.Namespace) -> None:
    """Print the results as a Markdown table."""
    documented = next((r["seconds"] for r in results if r["engine"] == "llama-index"), None)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    print(f"Commit {commit or 'none'}, {datetime.date.today()}, {Path(options.dataset).name}, base {options.model}, "
          f"{results[0]['questions']} questions on {options.held_out:.0%} of the chunks, held out.\n")  # fmt: skip
    print("| engine | epochs | reads (tokens) | seconds | of documented | peak GiB | hit@5 | MRR@10 | nDCG@10 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        seconds = r.get("seconds")
        ratio = f"{seconds / documented:.2f}" if seconds and documented else ""
        cells = [
            r["engine"], r.get("epochs", ""), r["reads"], f"{seconds:.0f}" if seconds else "", ratio,
            f"{r['peak_gib']:.2f}" if seconds else "", *(f"{r[name]:.3f}" for name in ("hit_rate@5", "mrr@10", "ndcg@10")),
        ]  # fmt: skip
        print("| " + " | ".join(str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
