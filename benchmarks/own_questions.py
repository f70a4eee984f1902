"""What ten, thirty or a hundred of people's own questions add to a model that learned from the offline generator.

    python benchmarks/own_questions.py SET.json [--numbers 10 30 100 300] [--epochs 1 2 4] [--draws 3]

A set is as in recipes.py. The model is trained on queries that the offline generator writes about all chunks, then goes on
with a random sample of people's questions, as `TRAIN_ON_GOLD` does. It is judged by the questions about chunks of which
no question was in the sample. Each row is the mean over `draws` samples; the base and the model without people's questions
are judged by the same questions.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from recipes import Judge, written

from nbutils import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine
from nbutils.models.names import DEFAULT_MODEL, load_model


def trained(dataset, model: str, folder: str, **options):
    chosen = {"dev_fraction": 0, "max_seq_length": 256, "show_progress_bar": False} | options
    engine = SentenceTransformersFinetuneEngine(dataset, model, folder, **chosen)
    engine.finetune()
    return engine.model.eval()


def sample(data: dict, number: int, seed: int) -> EmbeddingQAFinetuneDataset:
    """Return that many of people's questions, drawn at random."""
    drawn = random.Random(seed).sample(sorted(data["queries"]), number)
    return EmbeddingQAFinetuneDataset(
        queries={q: data["queries"][q] for q in drawn},
        corpus=data["corpus"],
        relevant_docs={q: data["relevant_docs"][q] for q in drawn},
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--numbers", nargs="*", type=int, default=[10, 30, 100, 300])
    parser.add_argument("--epochs", nargs="*", type=int, default=[1])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--offline", help="a folder with the model that learned from the offline generator")
    parser.add_argument("--options", type=json.loads, default={}, help="of the engine, as JSON")
    options = parser.parse_args()
    data, judge = json.loads(options.set.read_text()), Judge(options.set, half=False)
    home = tempfile.mkdtemp()
    offline = options.offline or f"{home}/offline"
    if not Path(offline).exists():
        trained(written(data["corpus"], ["sentence", "keywords"], 2), DEFAULT_MODEL, offline, **options.options)
    before = {name: judge.of_model(load_model(name)) for name in (DEFAULT_MODEL, offline)}
    print("| own questions | epochs | judged by | base | without them | with them | difference |\n" + "|---" * 7 + "|")
    for number in options.numbers:
        for epochs in options.epochs:
            rows = []
            for seed in range(options.draws):
                own = sample(data, number, seed)
                chunks = {chunk for found in own.relevant_docs.values() for chunk in found}
                rest = np.array([not chunks & set(found) for found in data["relevant_docs"].values()])
                model = trained(own, offline, f"{home}/own", teacher=DEFAULT_MODEL, epochs=epochs, **options.options)
                rows.append([each[rest].mean(0) for each in (*before.values(), judge.of_model(model))] + [rest.sum()])
            base, without, with_them = (np.mean([row[i] for row in rows], axis=0) for i in range(3))
            gains = np.array([row[2] - row[1] for row in rows])
            cells = [f"{each[0]:.3f} / {each[1]:.3f}" for each in (base, without, with_them)]
            change = ", ".join(f"{m:+.3f} ± {s:.3f}" for m, s in zip(gains.mean(0), gains.std(0), strict=True))
            print(f"| {number} | {epochs} | {rows[0][3]} | {' | '.join(cells)} | {change} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
