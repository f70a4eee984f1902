"""Why fine-tuning did not help: rules that name a cause, its evidence and a next step."""

import json
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from nbutils.core import UserError, asked
from nbutils.evaluation.compare import Comparison
from nbutils.evaluation.inspection import question_style
from nbutils.evaluation.leaks import wording_overlap
from nbutils.evaluation.verdict import questions_needed
from nbutils.models.names import DEFAULT_MODEL, load_tokenizer, prompts_for
from nbutils.questions.dataset import passages
from nbutils.questions.filters import near_duplicates

LEAST_TRAINING_CHUNKS = 60
Reason = tuple[str, str, str]


def reasons(
    comparison: Comparison, train_dataset, summary: Mapping | None = None, *, metric: str = "mrr@10"
) -> pd.DataFrame:
    """Return what may be why the fine-tuned model is no better than the base on the decisive question set.

    The rules look at: whether these questions can tell; room above the base; how unlike them those of training are
    (words shared with their chunk, length, kind); chunks: how many, near-copies, cut off at the reading length; prompts
    that are missing; how training went. A rule says what speaks for a cause; only another run shows that it is the cause.

    Args:
        comparison: with a fine-tuned system.
        train_dataset: the questions and chunks that it was trained on.
        summary: `engine.summary`; without it nothing is said about training itself.
        metric: column of `Comparison.per_query` that decides.

    Returns:
        `cause`, `evidence`, `next_step`; one row per cause found, none where the gain is beyond chance.

    Raises:
        UserError: the comparison holds no fine-tuned system.
    """
    if comparison.tuned is None:
        raise UserError("The comparison holds no fine-tuned system. Name it with compare_models(…, tuned=…).")
    decisive, summary = comparison.decisive, summary or {}
    tests = comparison.differences.set_index(["question_set", "system", "metric"])
    gain = tests.loc[(decisive, comparison.tuned, metric)]
    base = comparison.table.set_index(["question_set", "system", "metric"]).value[decisive, comparison.base, metric]
    rows: list[Reason] = []
    if not gain.low > 0:
        gold = comparison.datasets[decisive]
        rows += [*_judging(gain, base, metric), *_unlike(train_dataset, gold, asked(decisive))]
        rows += [*_chunks(train_dataset, gold, summary), *_prompts(comparison, summary), *_training(gain, summary)]
    return pd.DataFrame(rows, columns=["cause", "evidence", "next_step"])


def _judging(gain, base: float, metric: str) -> Iterator[Reason]:
    need, settled = questions_needed(gain)
    if gain.low <= 0 <= gain.high and need > gain.questions:
        evidence = f"{gain.questions} questions leave the difference between {gain.low:+.3f} and {gain.high:+.3f}"
        step = f"write about {need}: they would settle a difference of {settled:.3f}"
        yield "too few questions to tell", evidence, step
    if base >= 0.9:
        yield "the base is already there", f"its {metric} is {base:.3f}", "keep it, or judge by harder questions"


def _unlike(train, gold, asked_of: str) -> Iterator[Reason]:
    cause, step = "training questions unlike those asked", "train on questions like those asked: PAIRS, or another LLM"
    sets = list(train.queries.values()), list(gold.queries.values())
    shared = [wording_overlap(dataset).mean() for dataset in (train, gold)]
    if abs(shared[0] - shared[1]) > 0.2:
        evidence = f"they share {shared[0]:.0%} of their words with their chunk, the {asked_of} {shared[1]:.0%}"
        yield f"{cause}: wording", evidence, step
    words = [np.median([len(question.split()) for question in questions]) for questions in sets]
    if max(words) > 1.75 * min(words):
        yield f"{cause}: length", f"half have over {words[0]:.0f} words, of the {asked_of} over {words[1]:.0f}", step
    styles = [[question_style(question) for question in questions] for questions in sets]
    share = {style: [part.count(style) / len(part) for part in styles] for style in {*styles[0], *styles[1]}}
    style, (trained, wanted) = max(share.items(), key=lambda item: (abs(item[1][0] - item[1][1]), item[0]))
    if abs(trained - wanted) > 0.3:
        evidence = f"“{style}”: {trained:.0%} of them, {wanted:.0%} of the {asked_of}"
        yield f"{cause}: kind", evidence, step


def _chunks(train, gold, summary: Mapping) -> Iterator[Reason]:
    trained = summary.get("train_chunks") or len({chunk for ids in train.relevant_docs.values() for chunk in ids})
    if trained < LEAST_TRAINING_CHUNKS:
        yield "too few chunks", f"trained on questions about {trained} chunks", "add documents, or lower CHUNK_SIZE"
    bare = [re.sub(r"\d+", "", text) for text in train.corpus.values()]  # last year's table has other numbers
    repeats = near_duplicates(bare, 0.8)
    if (share := len({*repeats, *repeats.values()}) / len(bare)) > 0.1:
        evidence = f"{share:.0%} of the training chunks nearly repeat another, and count as wrong for its questions"
        yield "near-copies as false negatives", evidence, "leave copies out, or tell them apart with CHUNK_HEADER"
    limit, texts = summary.get("max_seq_length") or np.inf, list(passages(gold).values())
    tokens = load_tokenizer(DEFAULT_MODEL)(texts, truncation=False, verbose=False)["input_ids"]
    if (share := np.mean([len(ids) > limit for ids in tokens])) > 0.2:
        evidence = f"about {share:.0%} of the chunks are longer than the {limit} tokens that the model reads"
        yield "length cut off", evidence, "lower CHUNK_SIZE, or raise MAX_SEQ_LENGTH if the model can read more"


def _prompts(comparison: Comparison, summary: Mapping) -> Iterator[Reason]:
    prompts = {name: prompts_for(name) for name in summary.get("base_models", ()) if any(prompts_for(name).values())}
    if prompts and comparison.costs is not None and not comparison.costs.set_index("system").prompts[comparison.tuned]:
        name, wanted = prompts.popitem()
        evidence = f"models named like {name} were trained with {wanted}; this one puts nothing before a text"
        yield "prompts missing", evidence, f"train with OPTIONS {json.dumps({'prompts': wanted}, ensure_ascii=False)}"


def _training(gain, summary: Mapping) -> Iterator[Reason]:
    before, best = (summary.get(name, {}).get("dev_ndcg@10") for name in ("base", "best"))
    if before is None or best is None:
        return
    rate = summary.get("recipe", {}).get("learning_rate", 0)
    held_out = f"held-out training questions went from nDCG@10 {before:.3f} to {best:.3f} (learning rate {rate:g})"
    if best - before < 0.01:
        step = "lower" if rate > 2e-4 else "raise" if rate < 2e-5 else "try half and twice of"
        yield "learning rate", held_out, f"{step} LEARNING_RATE"
    elif summary.get("best_step") == summary.get("steps") and summary.get("stopped") == "done":
        yield "stopped too early", f"{held_out}, best at the last step", "raise EPOCHS"
    if best - before > 0.03 and gain.difference <= 0.01:
        evidence = f"{held_out}; those that decide moved by {gain.difference:+.3f}"
        step = "train on questions like those asked, or on these documents"
        yield "what it learned does not carry over", evidence, step
