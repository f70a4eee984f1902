"""Generators and recipes over any number of sets of people's questions, one table, paired intervals against the base.

    python benchmarks/recipes.py SET.json … [--recipes '{"kinds": ["sentence"], "soft_labels": 0.5}' …] [--half]

A set is a JSON file with `queries`, `corpus`, `relevant_docs` and perhaps `document`, which says of each query and chunk
to what document it belongs: a query is then searched in its own document. The queries of the set only judge: a model
is trained on queries that the offline generator writes about the very chunks that are searched. With `--half` it
learns from the first half of the chunks and is judged by the questions about the second. A recipe is JSON: `kinds`,
`number` and `seed` are the generator's, the others are listed in `DEFAULTS`.
"""

import argparse
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch

from nbutils.evaluation.stats import bootstrap_intervals, permutation_p
from nbutils.models.vectors import encode
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.questions.offline import OfflineQuestionWriter
from nbutils.training.teacher import TEMPERATURE, Teacher, bm25_matrices, sometimes_without

DEFAULTS = {
    "kinds": ["sentence", "sentence"], "number": 2, "seed": 0, "soft_labels": 0.5, "temperature": TEMPERATURE,
    "cloze": True, "epochs": 2, "learning_rate": 8e-5, "batch_size": 32, "scale": 20.0, "length": 256,
}  # fmt: skip


def written(corpus: dict[str, str], recipe: dict) -> list[tuple[str, int]]:
    """Return (query, chunk number) as the offline generator writes them."""
    texts = list(corpus.values())
    writer = OfflineQuestionWriter.for_corpus(texts, kinds=tuple(recipe["kinds"]), seed=recipe["seed"])
    return [(q, number) for number, text in enumerate(texts) for q in writer.questions(text, recipe["number"])]


def embed(model, texts: list[str], name: str) -> torch.Tensor:
    """Return normalized vectors with gradients, encoded in sub-batches of like length."""
    features = model.preprocess(texts, prompt=model.prompts.get(name) or None)
    lengths = features["attention_mask"].sum(1)
    order = lengths.argsort(descending=True)
    parts = []
    for rows in order.split(8):
        width = int(lengths[rows].max())
        parts.append(
            model({k: v[rows, :width] for k, v in features.items() if torch.is_tensor(v)})["sentence_embedding"]
        )
    return torch.nn.functional.normalize(torch.cat(parts)[order.argsort()], dim=1)


def trained(corpus: dict[str, str], recipe: dict):
    """Return the base model trained on generated queries."""
    torch.manual_seed(recipe["seed"])
    model = load_model(DEFAULT_MODEL, max_seq_length=recipe["length"])
    pairs, texts = written(corpus, recipe), list(corpus.values())
    queries = [query for query, _ in pairs]
    of_chunk: dict[int, list[int]] = {}
    for number, (_, chunk) in enumerate(pairs):
        of_chunk.setdefault(chunk, []).append(number)
    share = recipe["soft_labels"]
    teacher = Teacher(model, queries, texts, [chunk for _, chunk in pairs]) if share < 1 else None
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe["learning_rate"], weight_decay=0.0)
    chunks = np.array(list(of_chunk))
    batches = -(-len(chunks) // recipe["batch_size"])
    steps, step = batches * recipe["epochs"], 0
    for epoch in range(recipe["epochs"]):
        order = np.random.default_rng([recipe["seed"], epoch]).permutation(chunks)
        for batch in np.array_split(order, batches):
            rng = random.Random(f"{recipe['seed']}:{step}")
            members = [number for chunk in batch for number in of_chunk[chunk]]
            own = torch.tensor([row for row, chunk in enumerate(batch) for _ in of_chunk[chunk]])
            read = [
                sometimes_without(texts[c], [queries[n] for n in of_chunk[c]], rng) if recipe["cloze"] else texts[c]
                for c in batch
            ]
            c, q = embed(model, read, "document"), embed(model, [queries[n] for n in members], "query")
            target = torch.nn.functional.one_hot(own, len(batch)).float()
            if teacher:
                soft = torch.tensor(teacher(members, batch), dtype=torch.float32) / recipe["temperature"]
                target = share * target + (1 - share) * soft.softmax(1)
            loss = torch.nn.functional.cross_entropy(q @ c.T * recipe["scale"], target)
            for group in optimizer.param_groups:
                warm = max(1, round(0.1 * steps))
                group["lr"] = recipe["learning_rate"] * min((step + 1) / (warm + 1), (steps - step) / (steps - warm))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
    return model.eval(), len(pairs)


class Judge:
    """A set's questions, each searched in its own document."""

    def __init__(self, path: Path, half: bool) -> None:
        data = json.loads(path.read_text())
        self.name, self.corpus = path.stem + (" (halves)" if half else ""), data["corpus"]
        ids = list(self.corpus)
        self.train = {i: self.corpus[i] for i in ids[: len(ids) // 2]} if half else self.corpus
        asked = [q for q, found in data["relevant_docs"].items() if not half or found[0] not in self.train]
        self.queries = [data["queries"][q] for q in asked]
        self.relevant = np.array([np.isin(ids, data["relevant_docs"][q]) for q in asked])
        self.clusters = [data["relevant_docs"][q][0] for q in asked]
        where = data.get("document", {})
        self.elsewhere = np.array([[where.get(q) != where.get(i) for i in ids] for q in asked]) if where else False

    def metrics(self, scores: np.ndarray) -> np.ndarray:
        """Return hit@5 and MRR@10 of each question, shape (questions, 2)."""
        top = np.argsort(-np.where(self.elsewhere, -np.inf, scores), axis=1, kind="stable")[:, :10]
        gains = np.take_along_axis(self.relevant, top, 1)
        return np.stack([gains[:, :5].any(1), np.where(gains.any(1), 1 / (gains.argmax(1) + 1), 0)], 1).astype(float)

    def of_model(self, model) -> np.ndarray:
        return self.metrics(encode(model, self.queries, "query") @ encode(model, self.corpus.values()).T)

    def of_bm25(self) -> np.ndarray:
        words, weights = bm25_matrices(self.queries, list(self.corpus.values()))
        return self.metrics((words @ weights.T).toarray())


def row(judge: Judge, name: str, number: int | str, found: np.ndarray, base: np.ndarray, seconds: float) -> str:
    gain = found - base
    low, high = bootstrap_intervals(gain, judge.clusters)
    p = permutation_p(gain, judge.clusters)
    cells = [judge.name, name, number]
    for i in range(2):
        cells += [
            f"{found[:, i].mean():.3f}",
            f"{gain[:, i].mean():+.3f} ({low[i]:.3f} to {high[i]:.3f}), p {p[i]:.3f}",
        ]
    return "| " + " | ".join(map(str, [*cells, f"{seconds:.0f}"])) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--recipes", nargs="*", default=[{}], type=json.loads)
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    print("| set | recipe | queries | hit@5 | gain | MRR@10 | gain | seconds |\n|---|---|---|---|---|---|---|---|")
    for path in options.sets:
        judge = Judge(path, options.half)
        base = judge.of_model(load_model(DEFAULT_MODEL))
        print(row(judge, "base as shipped", "", base, base, 0))
        print(row(judge, "BM25", "", judge.of_bm25(), base, 0), flush=True)
        for changes in options.recipes:
            start = time.monotonic()
            model, number = trained(judge.train, DEFAULTS | changes)
            found = judge.of_model(model)
            print(row(judge, json.dumps(changes), number, found, base, time.monotonic() - start), flush=True)
            if __import__("os").environ.get("KEEP"):
                np.save(f"/tmp/metrics/{judge.name}-{json.dumps(changes).replace('/', '')}.npy", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
