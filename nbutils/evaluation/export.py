"""The results of a comparison as files: tidy CSV, JSON, and TREC's formats for other tools."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbutils.core import slug, write_atomic
from nbutils.evaluation.walkthrough import relevance
from nbutils.models.search import Ranking

if TYPE_CHECKING:
    from nbutils.evaluation.compare import Comparison


def save_comparison(comparison: "Comparison", folder: str | Path) -> list[Path]:
    """Write the results to `folder` and return the files, each written whole.

    `metrics.csv`, `differences.csv`, `contrasts.csv` and `per_query.csv` are tidy; `results.json` holds the first
    three and the notes; `runs/SET.SYSTEM.trec` and `qrels/SET.trec` are in TREC's format, for trec_eval and others.
    """
    folder = Path(folder)
    tables = {"metrics": comparison.table, "differences": comparison.differences, "contrasts": comparison.contrasts}
    per_query = comparison.per_query.drop(columns="cluster")
    per_query["retrieved"] = per_query.retrieved.map(" ".join)
    written = [
        write_atomic(folder / f"{name}.csv", frame.to_csv(index=False))
        for name, frame in (tables | {"per_query": per_query}).items()
    ]
    results = {name: getattr(comparison, name) for name in ("base", "tuned", "decisive", "notes")}
    results["human"] = sorted(comparison.human)
    results |= {name: json.loads(frame.to_json(orient="records")) for name, frame in tables.items()}
    written.append(write_atomic(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False)))
    set_files = dict(zip(comparison.datasets, distinct([slug(name) for name in comparison.datasets]), strict=True))
    for question_set, dataset in comparison.datasets.items():
        qrels = folder / "qrels" / f"{set_files[question_set]}.trec"
        written.append(write_atomic(qrels, trec_qrels(dataset)))
        rankings = comparison.rankings[question_set]
        for system, file in zip(rankings, distinct([slug(name) for name in rankings]), strict=True):
            text = trec_run(dataset, rankings[system], file)
            written.append(write_atomic(folder / "runs" / f"{set_files[question_set]}.{file}.trec", text))
    return written


def distinct(names: Sequence[str]) -> list[str]:
    """Return the names, a number behind each that has occurred before."""
    found: list[str] = []
    for name in names:
        copies = (f"{name}-{i}" for i in range(2, len(names) + 2))
        found.append(name if name not in found else next(copy for copy in copies if copy not in {*found, *names}))
    return found


def _token(name: str) -> str:
    return re.sub(r"\s+", "_", name)


def trec_qrels(dataset) -> str:
    """Return a dataset's relevant chunks in TREC's format: `query 0 chunk grade`."""
    rows = ((query, chunk, grade) for query, grades in relevance(dataset).items() for chunk, grade in grades.items())
    return "".join(f"{_token(query)} 0 {_token(chunk)} {grade:g}\n" for query, chunk, grade in rows)


def trec_run(dataset, ranking: Ranking, tag: str) -> str:
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
            lines.append(f"{_token(query)} Q0 {ids[chunk]} {rank} {last!s} {tag}\n")
    return "".join(lines)
