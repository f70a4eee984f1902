"""Whether the fine-tuned model forgot: general questions that it was not tuned for, searched before and after."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from nbutils.core import UserError, first_line, project_folder
from nbutils.evaluation.compare import compare_models
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

if TYPE_CHECKING:
    from nbutils.evaluation.walkthrough import Model


def load_general_knowledge() -> EmbeddingQAFinetuneDataset:
    """Return the project's general-knowledge retrieval set: short passages on many subjects, with a question on each."""
    text = (project_folder() / "data" / "general_knowledge.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return EmbeddingQAFinetuneDataset(
        queries={f"q-{row['id']}": row["question"] for row in rows},
        corpus={row["id"]: row["passage"] for row in rows},
        relevant_docs={f"q-{row['id']}": [row["id"]] for row in rows},
    )


@dataclass
class Forgetting:
    """How the fine-tuned model does on general knowledge, next to the base.

    Args:
        table: one row per set: `set`, `base`, `tuned`, `difference`, `low`, `high`, `p`, `questions`. The intervals hold
            for all sets together with 95 % (Bonferroni).
        threshold: a drop that is surely larger counts as forgetting.
        metric: of the table.
        notes: what was left out and why.
    """

    table: pd.DataFrame
    threshold: float
    metric: str
    notes: list[str] = field(default_factory=list)

    @property
    def forgot(self) -> bool:
        """Whether the whole interval of the drop on some set lies beyond the threshold."""
        return bool((self.table.high < -self.threshold).any())

    def __str__(self) -> str:
        rows = [
            f"{row.set}: {self.metric} {row.base:.3f} → {row.tuned:.3f} ({row.difference:+.3f}, "
            f"interval {row.low:+.3f} to {row.high:+.3f}, {row.questions} questions)"
            for row in self.table.itertuples()
        ]
        if self.forgot:
            end = f"That is a drop beyond {self.threshold}, and beyond chance: the model forgot."
        elif (self.table.low < -self.threshold).any():
            end = f"A drop beyond {self.threshold} is not shown, nor ruled out."
        else:
            end = f"A drop beyond {self.threshold} is ruled out."
        return "\n".join([f"{'; '.join(rows)}.", end, *self.notes])

    def stop_if_forgot(self) -> None:
        """Raise a UserError if the model forgot."""
        if self.forgot:
            advice = "Train for fewer epochs or at a lower learning rate, mix in general pairs, or raise the threshold."
            raise UserError(f"The fine-tuned model forgot what the base knew: {self} {advice}")


def check_forgetting(
    base: "Model",
    tuned: "Model",
    *,
    datasets: Mapping[str, object] | None = None,
    nanobeir: bool = False,
    threshold: float = 0.03,
    metric: str = "ndcg@10",
) -> Forgetting:
    """Return what the model knew before and knows after fine-tuning, on retrieval sets that it was not tuned for.

    Args:
        base, tuned: a name or a model each.
        datasets: set name -> dataset; default is the project's own general knowledge.
        nanobeir: also run NanoBEIR's 13 sets, where a hub is reachable (a note says so where it is not).
        threshold: the largest drop of the metric that is not called forgetting.
        metric: column of `Comparison.per_query`.
    """
    notes: list[str] = []
    datasets = dict(datasets) if datasets is not None else {"general knowledge": load_general_knowledge()}
    if nanobeir:
        datasets |= _nanobeir(notes)
    comparison = compare_models(
        datasets, {"base": base, "tuned": tuned}, bm25=False, hybrid=False, compared_length=False,
        verbose=False, level=1 - 0.05 / len(datasets), draws=2000 * len(datasets),
    )  # fmt: skip
    values = comparison.table.query("metric == @metric").pivot(index="question_set", columns="system", values="value")
    found = comparison.differences.query("metric == @metric").set_index("question_set")
    table = values.join(found[["difference", "low", "high", "p", "questions"]]).loc[list(datasets)]
    return Forgetting(table.rename_axis("set").reset_index(), threshold, metric, notes)


def _nanobeir(notes: list[str]) -> dict[str, object]:
    try:
        from sentence_transformers.sentence_transformer.evaluation import NanoBEIREvaluator

        evaluators = NanoBEIREvaluator().evaluators
    except Exception as error:  # any failure to reach the hub leaves this optional set out, and says so
        notes.append(f"NanoBEIR was left out: the hub could not be read ({first_line(error).rstrip('.')}).")
        return {}
    return {
        f"NanoBEIR {one.name}": EmbeddingQAFinetuneDataset(
            queries=dict(zip(one.queries_ids, one.queries, strict=True)),
            corpus=dict(zip(one.corpus_ids, one.corpus, strict=True)),
            relevant_docs={query: sorted(one.relevant_docs[query]) for query in one.queries_ids},
        )
        for one in evaluators
    }
