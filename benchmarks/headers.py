"""What stands before a chunk where it is embedded, over several documents searched in one index.

    python benchmarks/headers.py FILES QUESTIONS … [--headers '' file file,section …] [--train 1500] [--engine '{}' …]

FILES is a folder or a glob; QUESTIONS are tables of gold questions that name their `file` (or `document`), with `quote` or `pages`.
A hit is a chunk that answers the question. Each question is searched in all documents and in its own, as `compare_models`
does. Differences are paired, from the table's first row; intervals are drawn document by document.
With `--train` the base also learns the offline generator's queries about that many chunks, drawn at random, with the last of the
headers (and now and then without it, as always); that model is judged with the header and without it, once for each `--engine`,
options in JSON. With `--few` the index holds only so many chunks of each document, drawn at random, besides those that answer a
question.
"""

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from recipes import written

from nbutils import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine, load_corpus
from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.gold import GoldQuestions, load_gold_questions
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.questions.dataset import headers_of, merged, names_of

METRICS = {"all files": ["hit_rate@5", "mrr@10", "right_file@5"], "own file": ["hit_rate@5", "mrr@10"]}
COLUMNS = [f"{name}: {metric}" for name, metrics in METRICS.items() for metric in metrics]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files")
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--headers", nargs="*", default=["", "file", "title", "section", "file,section"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--chunk-overlap", type=int, help="default is that of load_corpus")
    parser.add_argument("--few", type=int, default=0, help="chunks of each document; default is all")
    parser.add_argument("--train", type=int, default=0, help="chunks to learn")
    parser.add_argument("--engine", nargs="*", default=[{}], type=json.loads, help="options of the engine, as JSON")
    parser.add_argument("--cache", type=Path, help="folder for what was read and embedded")
    options = parser.parse_args()
    base = load_model(options.model)
    options.cache = options.cache or False  # no cache of this user
    first, differences = {}, " | ".join(f"{name} | difference" for name in COLUMNS)
    print(f"| header | system | {differences} |\n|" + "---|" * (2 + 2 * len(COLUMNS)))

    def chunks(header: str) -> list:
        size = {"chunk_size": options.chunk_size, "chunk_overlap": options.chunk_overlap}
        nodes = load_corpus([options.files], header=header.split(","), cache=options.cache or None, **size)
        return some_of(nodes, gold(nodes, options.questions), options.few) if options.few else nodes

    def show(header: str, name: str, model, nodes: list) -> None:
        everywhere = gold(nodes, options.questions)
        files = {node.node_id: node.metadata["file_name"] for node in nodes}
        placed = {"placed": dict.fromkeys(everywhere.queries, "quote"), "left_out": [], "documents": files}
        sets = {"all files": everywhere, "own file": GoldQuestions(**everywhere.model_dump(), **placed)}
        rows = compare_models(sets, {name: model}, nodes=nodes, cache=options.cache, verbose=False).per_query
        documents = [files[chunk] for chunk in rows.expected[: len(everywhere.queries)]]
        for system, of_system in rows.groupby("system", sort=False):
            if "no headers" in system if name == "base" else system == "BM25":  # such a row stands there already
                continue
            by_set = dict(list(of_system.groupby("question_set")))
            found = np.concatenate([by_set[each][metrics].to_numpy(float) for each, metrics in METRICS.items()], 1)
            gain = found - first.setdefault("row", found)
            low, high = bootstrap_intervals(gain, documents)
            cells = [
                f"{found[:, i].mean():.3f} | {gain[:, i].mean():+.3f} ({low[i]:.3f} to {high[i]:.3f})"
                for i in range(len(COLUMNS))
            ]
            print(f"| {header or 'none'} | {system} | {' | '.join(cells)} |", flush=True)

    for header in options.headers:
        nodes = chunks(header)
        print(f"{len(nodes)} chunks", file=sys.stderr)
        show(header, "base", base, nodes)
    for changes in options.engine if options.train else ():
        model = trained(nodes, options.train, options.model, **changes)
        show(header, f"learned {json.dumps(changes)}", model, nodes)
    return 0


def gold(nodes: list, tables: list[Path]) -> EmbeddingQAFinetuneDataset:
    with contextlib.redirect_stdout(sys.stderr):
        return merged(*[load_gold_questions(table, nodes) for table in tables])


def some_of(nodes: list, questions: EmbeddingQAFinetuneDataset, number: int) -> list:
    """Return so many chunks of each document, drawn at random, and those that answer a question, in their order."""
    answers = {chunk for found in questions.relevant_docs.values() for chunk in found}
    kept = [node.node_id in answers for node in nodes]
    rng, places = random.Random(0), {}
    for place, node in enumerate(nodes):
        places.setdefault(node.metadata["file_name"], []).append(place)
    for of_file in places.values():
        for place in rng.sample(of_file, min(number, len(of_file))):
            kept[place] = True
    return list(itertools.compress(nodes, kept))


def trained(nodes: list, number: int, base: str, **changes):
    """Return the base after it has learned offline queries about so many of the chunks, drawn at random."""
    drawn = random.Random(0).sample(nodes, min(number, len(nodes)))
    dataset = written({node.node_id: node.text for node in drawn}, ["sentence", "keywords"], 2)
    dataset.headers, dataset.names = headers_of(drawn), names_of(drawn)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"dev_fraction": 0, "show_progress_bar": False} | changes
        engine = SentenceTransformersFinetuneEngine(dataset, base, folder, **chosen)
        engine.finetune()
    return engine.model.eval()


if __name__ == "__main__":
    sys.exit(main())
