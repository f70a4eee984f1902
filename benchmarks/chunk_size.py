"""Which chunk size serves the base model best, asked with the questions that people wrote about the sample report.

    python benchmarks/chunk_size.py [SIZE …]

Every size is searched by the base model as shipped; a hit is a chunk that contains the quote which
answers the question.
"""

import sys
from pathlib import Path

from nbutils.corpus.chunks import load_corpus
from nbutils.corpus.lengths import corpus_summary
from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.gold import load_gold_questions
from nbutils.models.names import DEFAULT_MODEL

SAMPLE = Path(__file__).parents[1] / "data" / "sample"


def main(sizes: list[int]) -> None:
    """Print one row per size: chunks, share of tokens the model does not see, and the scores by quote with intervals."""
    print(f"{'size':>5} {'chunks':>7} {'unseen':>7}   hit rate@1            hit rate@5            MRR@10")
    for size in sizes:
        nodes = load_corpus(SAMPLE / "brackwater_2024.pdf", chunk_size=size, chunk_overlap=size * 40 // 256)
        unseen = corpus_summary(nodes, DEFAULT_MODEL, 256).loc["all", "share_unseen"]
        gold = load_gold_questions(SAMPLE / "gold_questions.csv", nodes)
        found = compare_models(gold, {"base": DEFAULT_MODEL}, bm25=False, hybrid=False, cache=False, verbose=False)
        row = found.summary(["hit_rate@1", "hit_rate@5", "mrr@10"]).iloc[0]
        print(f"{size:>5} {len(nodes):>7} {unseen:>7.1%}   {'   '.join(row)}")


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [128, 256, 384, 512, 1024])
