"""Whether fine-tuning paid, in plain words that follow from the numbers by rules; and whether the model forgot."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nbutils.core import UserError
from nbutils.evaluation.compare import BM25, Comparison, compare_models
from nbutils.evaluation.gold import load_general_knowledge, wording_overlap
from nbutils.evaluation.stats import bootstrap_intervals, holm, permutation_p

if TYPE_CHECKING:
    import pandas as pd


LEAST_CHUNKS = 30
BORROWED = 0.6  # questions that share more of their words with their chunks flatter word search


@dataclass
class Effect:
    """One paired difference between two systems on one question set.

    Args:
        system: what was compared.
        reference: with what.
        question_set: on which questions.
        value, reference_value: means of the metric.
        difference, low, high: difference of the means and its 95 % interval.
        p: permutation p-value, corrected where several comparisons are made at once.
        questions: their number.
        chunks: number of different chunks that they ask about.
        outcome: "better" or "worse" (p below 0.05), else "same" (the whole interval within the margin, from at least
            30 chunks: a few that happen not to move prove nothing), else "unclear".
    """

    system: str
    reference: str
    question_set: str
    value: float
    reference_value: float
    difference: float
    low: float
    high: float
    p: float
    questions: int
    chunks: int
    outcome: str = ""


def effects(
    comparison: Comparison,
    pairs: "list[tuple[str, str, str]]",
    metric: str,
    *,
    margin: float = 0.02,
    alpha: float = 0.05,
) -> list[Effect]:
    """Return the paired difference of each (question set, system, reference), p-values corrected by Holm's method."""
    found = []
    for question_set, system, reference in pairs:
        rows = comparison.per_query[comparison.per_query.question_set == question_set]
        one, other = (rows[rows.system == name].set_index("query") for name in (system, reference))
        difference = (one[metric] - other.loc[one.index, metric]).to_numpy()
        low, high = bootstrap_intervals(difference, one.cluster)
        p = permutation_p(difference, one.cluster)[0]
        means = float(one[metric].mean()), float(other[metric].mean())
        counts = len(one), one.cluster.nunique()
        found.append(Effect(system, reference, question_set, *means, difference.mean(), low[0], high[0], p, *counts))
    for effect, p in zip(found, holm([effect.p for effect in found]), strict=True):
        effect.p = float(p)
        if p < alpha:
            effect.outcome = "better" if effect.difference > 0 else "worse"
        else:
            within = -margin <= effect.low and effect.high <= margin and effect.chunks >= LEAST_CHUNKS
            effect.outcome = "same" if within else "unclear"
    return found


@dataclass
class Forgetting:
    """How the fine-tuned model does on general knowledge, next to the base.

    Args:
        table: a row a set: `set`, `base`, `tuned`, `difference`, `low`, `high`, `p`, `questions` (metric: `metric`).
        threshold: a drop beyond it counts as forgetting.
        metric: which one.
        notes: what was left out and why.
    """

    table: "pd.DataFrame"
    threshold: float
    metric: str
    notes: list[str] = field(default_factory=list)

    @property
    def forgot(self) -> bool:
        """Whether the score on any set fell by more than the threshold."""
        return bool((self.table.difference < -self.threshold).any())

    def __str__(self) -> str:
        rows = [
            f"{row.set}: {self.metric} {row.base:.3f} → {row.tuned:.3f} ({row.difference:+.3f}, "
            f"95 % interval {row.low:+.3f} to {row.high:+.3f}, {row.questions} questions)"
            for row in self.table.itertuples()
        ]
        end = "a drop beyond the threshold" if self.forgot else "no drop beyond the threshold"
        tail = ": the model forgot." if self.forgot else "."
        return "\n".join([f"{'; '.join(rows)}.", f"That is {end} of {self.threshold}{tail}", *self.notes])

    def stop_if_forgot(self) -> None:
        """Raise an error if the model forgot.

        Raises:
            UserError: the score on some set fell by more than the threshold.
        """
        if self.forgot:
            raise UserError(
                f"The fine-tuned model forgot what the base knew: {self} Train for fewer epochs or at a lower "
                "learning rate, mix in general pairs, or raise the threshold."
            )


def check_forgetting(
    base,
    tuned,
    *,
    datasets: Mapping[str, object] | None = None,
    nanobeir: bool = False,
    threshold: float = 0.03,
    fail: bool = False,
    metric: str = "ndcg@10",
    bf16: bool | None = False,
    cache=None,
    verbose: bool = False,
) -> Forgetting:
    """Return what the model knew before and knows after fine-tuning, on retrieval sets that it was not tuned for.

    Args:
        base: the base model (a name or a model).
        tuned: the fine-tuned model.
        datasets: set name -> dataset; default is the project's own, data/general_knowledge.jsonl.
        nanobeir: also run NanoBEIR's 13 sets, where a hub is reachable (a note says so where it is not).
        threshold: the largest drop of the metric that is not called forgetting.
        fail: raise an error on a drop beyond the threshold.
        metric: column of `Comparison.per_query`.
        bf16: compute in bfloat16; None is where it pays.
        cache: folder of the embedding cache, False for none.
        verbose: show progress.

    Raises:
        UserError: `fail` is set and the model forgot; or as `compare_models`.
    """
    import pandas as pd

    notes: list[str] = []
    datasets = dict(datasets) if datasets is not None else {"general knowledge": load_general_knowledge()}
    if nanobeir:
        datasets |= _nanobeir(notes)
    comparison = compare_models(
        datasets, {"base": base, "tuned": tuned}, bm25=False, hybrid=False, compared_length=False, bf16=bf16,
        cache=cache, verbose=verbose,
    )  # fmt: skip
    rows = [
        {"set": e.question_set, "base": e.reference_value, "tuned": e.value, "difference": e.difference,
         "low": e.low, "high": e.high, "p": e.p, "questions": e.questions}
        for e in effects(comparison, [(name, "tuned", "base") for name in datasets], metric)
    ]  # fmt: skip
    result = Forgetting(pd.DataFrame(rows), threshold, metric, notes)
    if fail:
        result.stop_if_forgot()
    return result


def _nanobeir(notes: list[str]) -> dict[str, object]:
    from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

    try:
        from sentence_transformers.sentence_transformer.evaluation import NanoBEIREvaluator

        evaluators = NanoBEIREvaluator().evaluators
    except Exception as error:  # any failure to reach the hub leaves this optional set out, and says so
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        notes.append(f"NanoBEIR was left out: the hub could not be read ({reason}).")
        return {}
    return {
        f"NanoBEIR {one.name}": EmbeddingQAFinetuneDataset(
            queries=dict(zip(one.queries_ids, one.queries, strict=True)),
            corpus=dict(zip(one.corpus_ids, one.corpus, strict=True)),
            relevant_docs={query: sorted(one.relevant_docs[query]) for query in one.queries_ids},
        )
        for one in evaluators
    }


@dataclass(repr=False)
class Verdict:
    """The answer at the top of notebook 04.

    Args:
        kind: "better", "hurt", "same", "too few", "disagree", "length" or "forgot"; see `verdict` for the rules.
        advice: "use it", "use hybrid", "use BM25", "get more data" or "keep the base".
        headline: one sentence.
        lines: by how much, how sure, on which questions, at what cost.
        next_steps: what to do.
        effects: the differences that it follows from.
    """

    kind: str
    advice: str
    headline: str
    lines: list[str]
    next_steps: list[str]
    effects: list[Effect]

    def __str__(self) -> str:
        parts = [self.headline, *(f"- {line}" for line in self.lines), "What to do next:"]
        return "\n".join(parts + [f"{i}. {step}" for i, step in enumerate(self.next_steps, 1)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def items(texts, tag):
            return f"<{tag}>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + f"</{tag}>"

        return (
            f'<div class="verdict" data-kind="{html.escape(self.kind)}" '
            'style="border:2px solid #0072B2;border-radius:6px;padding:0.5em 1em">'
            f"<p><strong>{html.escape(self.headline)}</strong></p>{items(self.lines, 'ul')}"
            f"<p>What to do next:</p>{items(self.next_steps, 'ol')}</div>"
        )


def by_people(question_set: str) -> bool:
    """Whether the name of a question set says that people wrote it."""
    return any(word in question_set.lower() for word in ("gold", "human", "people"))


def decisive_set(names: "list[str]") -> str:
    """Return the question set that the verdict follows: the first that people wrote, else the first."""
    return next(filter(by_people, names), names[0])


def verdict(
    comparison: Comparison,
    forgetting: Forgetting | None = None,
    *,
    metric: str = "mrr@10",
    decisive: str | None = None,
    margin: float = 0.02,
    alpha: float = 0.05,
    slices: "pd.DataFrame | None" = None,
    costs: Mapping[str, str] | None = None,
    warnings: "Sequence[str | None]" = (),
) -> Verdict:
    """Return the verdict on the fine-tuned model.

    All tests are paired and on one metric. The planned one, fine-tuned against base on the decisive set, stands
    alone; all others are corrected together by Holm's method. A set says *better* or *worse* where p < alpha,
    *same* where the whole 95 % interval of the difference lies within ± margin (and 30 chunks or more are asked
    about), *unclear* otherwise. The decisive set is the one that people wrote ("gold", "human" or "people" in its
    name), if there is one; where there is none, the verdict says so. The first rule that applies gives the kind:

    1. `hurt`: the fine-tuned model is worse than the base on the decisive set → keep the base.
    2. `disagree`: better on another set, but not on the decisive one, where the difference is not above 0, or
       is the same → keep the base, get more gold questions.
    3. `too few`: the decisive set is unclear → get more data (the number of questions that would settle it is given).
    4. `same`: no difference worth the name → keep the base.
    5. `length`: better than the base as shipped, but not than the base read to the same length (neither beyond
       chance nor by more than the margin) → keep the base and read further.
    6. `forgot`: better, but `forgetting` says that general knowledge fell beyond its threshold → keep the base,
       or use the model on such documents only.
    7. `better` → use it.

    After that: where the chosen model (the fine-tuned one for `better`, else the base) is beaten by BM25 or by its own
    hybrid with BM25 on the decisive set, the advice of rules 1, 2, 4, 5, 6 and 7 becomes to use hybrid; or to use BM25
    alone, where it beats that hybrid too. Not so on questions that people did not write and that take more than 60 %
    of their words from the chunks: word search looks better on these than it is, and the verdict only says that.

    Args:
        comparison: with a fine-tuned system.
        forgetting: result of `check_forgetting`.
        metric: that decides. MRR@10, how soon the first right chunk comes, means the same for questions with one right
            chunk and for those judged by page, where many chunks are right.
        decisive: question set that decides.
        margin: a difference that nobody would notice.
        alpha: significance level.
        slices: result of `nbutils.evaluation.inspection.slices`, to say on which questions.
        costs: what it cost, name -> text, e.g. {"training": "153 s on 2 cores"}.
        warnings: what else a reader must know, e.g. from `nbutils.evaluation.gold.same_writer_warning`; None is left out.

    Raises:
        UserError: no fine-tuned system, or an unknown set or metric.
    """
    names, base, tuned = list(comparison.datasets), comparison.base, comparison.tuned
    decisive = decisive or decisive_set(names)
    if tuned is None:
        raise UserError("The comparison holds no fine-tuned system. Name it with compare_models(…, tuned=…).")
    if decisive not in names or metric not in comparison.per_query:
        raise UserError(f"There is no question set {decisive!r} or no metric {metric!r} in the comparison.")
    systems = list(comparison.rankings[decisive])
    longer = next((name for name in systems if name.startswith(f"{base}, ") and name.endswith(" tokens")), None)
    pairs = [(name, tuned, base) for name in names]
    if longer:
        pairs.append((decisive, tuned, longer))
    for dense in (base, tuned):
        both = f"{dense} + BM25"
        wanted = [(dense, BM25), (both, dense), (both, BM25)]
        pairs += [(decisive, *pair) for pair in wanted if set(pair) <= set(systems)]
    planned = [(decisive, tuned, base)]
    tested = effects(comparison, planned, metric, margin=margin, alpha=alpha)
    tested += effects(comparison, [pair for pair in pairs if pair not in planned], metric, margin=margin, alpha=alpha)
    by = {(e.question_set, e.system, e.reference): e for e in tested}
    main = by[decisive, tuned, base]
    others = [by[name, tuned, base] for name in names if name != decisive]

    kind = _kind(main, others, by.get((decisive, tuned, longer)), forgetting, margin)
    chosen = tuned if kind == "better" else base
    advice = {"better": "use it", "too few": "get more data"}.get(kind, "keep the base")
    wording = {name: wording_overlap(comparison.datasets[name]).mean() for name in names}
    flattered = not by_people(decisive) and wording[decisive] > BORROWED
    words = by.get((decisive, chosen, BM25))
    both = by.get((decisive, f"{chosen} + BM25", chosen))
    alone = by.get((decisive, f"{chosen} + BM25", BM25))
    ahead = any(e is not None and e.outcome == o for e, o in ((words, "worse"), (both, "better")))
    if ahead and not flattered and kind != "too few":
        advice = "use BM25" if words and alone and words.outcome == alone.outcome == "worse" else "use hybrid"

    per_100 = _per_hundred(comparison, decisive, base, tuned)
    gained = [e.question_set for e in others if e.outcome == "better"]
    headline = _headline(kind, advice, per_100, main, metric, longer, gained)
    lines = [_sure(e, metric, margin) for e in (main, *others)]
    if longer:
        lines.append(_sure(by[decisive, tuned, longer], metric, margin))
    lines += [_sure(e, metric, margin) for e in (words, both, alone if ahead else None) if e is not None]
    lines += [_wording(name, share) for name, share in wording.items()]
    lines += filter(None, warnings)
    lines += _where(slices)
    if forgetting is not None:
        lines.append("Forgetting: " + str(forgetting).replace("\n", " "))
    lines += _cost_lines(comparison, tuned, costs)
    lines += comparison.notes
    steps = _steps(kind, advice, main, chosen, longer, margin)
    if ahead and flattered:
        steps.append("Do not choose word search or hybrid by these questions: they borrow their chunks' words.")
    return Verdict(kind, advice, headline, lines, steps, tested)


def _kind(
    main: Effect, others: list[Effect], longer: Effect | None, forgetting: Forgetting | None, margin: float
) -> str:
    if main.outcome == "worse":
        return "hurt"
    if main.outcome != "better":
        gained_elsewhere = any(e.outcome == "better" for e in others)
        if gained_elsewhere and (main.outcome == "same" or main.difference <= 0):
            return "disagree"
        return "too few" if main.outcome == "unclear" else "same"
    if longer is not None and longer.outcome != "better" and longer.difference <= margin:
        return "length"
    if forgetting is not None and forgetting.forgot:
        return "forgot"
    return "better"


def _per_hundred(comparison: Comparison, question_set: str, base: str, tuned: str) -> tuple[float, float]:
    rows = comparison.per_query[comparison.per_query.question_set == question_set]
    means = rows.groupby("system")["hit_rate@5"].mean() * 100
    return means[base], means[tuned]


def _headline(
    kind: str, advice: str, per_100: tuple[float, float], main: Effect, metric: str, longer: str | None, gained
) -> str:
    decisive = main.question_set
    shift = (
        f"of 100 {decisive} questions it finds a right chunk among the first 5 for {per_100[1]:.0f}, "
        f"the base for {per_100[0]:.0f}"
    )
    if kind in ("better", "hurt", "forgot"):
        up = main.difference > 0
        agree = (per_100[1] > per_100[0]) == up
        found = (
            f"the first right chunk comes {'sooner' if up else 'later'}" if metric == "mrr@10" else f"its {metric} is "
        )
        found += "" if metric == "mrr@10" else "higher" if up else "lower"
        shift += f", {'and' if agree else 'but'} {found} ({metric} {main.value:.3f} against {main.reference_value:.3f})"
    text = {
        "hurt": f"Fine-tuning hurt: {shift}.",
        "disagree": f"The question sets disagree: fine-tuning helps on {' and '.join(gained)} questions, but not on "
        f"{decisive} ones ({shift}).",
        "too few": f"There are too few questions to tell whether fine-tuning helped: {shift}.",
        "same": f"Fine-tuning made no difference: {shift}.",
        "length": f"Reading further helped, fine-tuning did not: {longer} does as well ({shift}).",
        "forgot": f"The fine-tuned model is better here, but forgot general knowledge: {shift}.",
        "better": f"Fine-tuning helped: {shift}.",
    }[kind]
    told = by_people(decisive) or kind == "too few"
    unknown = "" if told else " Whether that holds for questions that people ask is not known."
    return f"{text}{unknown} Advice: {advice}."


def _sure(effect: Effect, metric: str, margin: float) -> str:
    ending = {
        "better": "better, beyond chance",
        "worse": "worse, beyond chance",
        "same": f"the same within ±{margin}",
        "unclear": "too little to tell from chance",
    }[effect.outcome]
    interval = f"95 % interval {effect.low:+.3f} to {effect.high:+.3f}"
    if effect.chunks == 1:
        interval = "no interval: all ask about one chunk"
    return (
        f"On the {effect.questions} {effect.question_set} questions, {effect.system} against {effect.reference}: "
        f"{metric} {effect.value:.3f} against {effect.reference_value:.3f}, {effect.difference:+.3f} "
        f"({interval}, p {_p(effect.p)}): {ending}."
    )


def _p(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def _wording(question_set: str, share: float) -> str:
    borrowed = share > BORROWED and not by_people(question_set)
    tail = ": word search looks better on them than it will on people's" if borrowed else ""
    return f"{share:.0%} of the content words of the {question_set} questions stand in their chunk{tail}."


def _where(slices: "pd.DataFrame | None") -> list[str]:
    if slices is None or not len(slices):
        return []
    big = slices[slices.questions >= 10]
    gained, lost = big[big.low > 0].nlargest(3, "difference"), big[big.high < 0].nsmallest(3, "difference")
    lines = []
    for rows, word in ((gained, "Most was gained"), (lost, "Most was lost")):
        if len(rows):
            parts = [f"{r.slice} “{r.group}” ({r.difference:+.3f}, {r.questions} questions)" for r in rows.itertuples()]
            lines.append(f"{word} on: {', '.join(parts)} (single slices, not corrected for their number).")
    return lines


def _cost_lines(comparison: Comparison, tuned: str, costs: Mapping[str, str] | None) -> list[str]:
    lines = [f"Cost, {name}: {text}." for name, text in (costs or {}).items()]
    rows = comparison.costs
    if rows is not None and tuned in set(rows.system) and comparison.base in set(rows.system):
        base, other = (rows[rows.system == name].iloc[0] for name in (comparison.base, tuned))
        same = (base.dimensions, base.parameters) == (other.dimensions, other.parameters)
        if same:
            lines.append(f"Search costs the same as with the base: {int(other.dimensions)} numbers a chunk.")
        else:
            lines.append(f"A chunk takes {int(other.dimensions)} numbers (the base: {int(base.dimensions)}).")
    return lines


def questions_needed(effect: Effect, margin: float = 0.02) -> int:
    """Return how many questions would settle a difference of this size with 80 % power at the 5 % level.

    The standard error is taken from the interval and shrinks with the root of the number of questions; a difference
    below the margin is taken as the margin. It is never less than 3 / margin: only so many questions without a change
    bound the share of changes below the margin (the rule of three).
    """
    error = np.nan_to_num((effect.high - effect.low) / (2 * 1.96))
    factor = ((1.96 + 0.84) * error / max(abs(effect.difference), margin)) ** 2
    return int(np.ceil(max(effect.questions * max(factor, 1.0), 3 / margin) / 10) * 10)


def _steps(kind: str, advice: str, main: Effect, chosen: str, longer: str | None, margin: float) -> list[str]:
    need, decisive = questions_needed(main, margin), main.question_set
    steps = []
    if advice == "use hybrid":
        steps.append(f"Search with {chosen} and BM25 together (reciprocal rank fusion).")
    if advice == "use BM25":
        steps.append(f"Search with BM25 alone: it did better than {chosen}, and than both together.")
    steps += {
        "hurt": [
            "Keep the base model; do not deploy the fine-tuned one.",
            "Look at the losses below: bad training questions show there first.",
        ],
        "disagree": [
            "Keep the base model until the questions that count improve.",
            "Train on questions nearer to those that people ask: another writer, or real queries from a log.",
        ],
        "too few": [
            f"Write more {decisive} questions: about {need} in all would settle a difference of this size.",
            f"Until then {main.system if main.difference > 0 else main.reference} is the better guess, and no more."
            if main.difference
            else "Until then keep the base: nothing speaks against it.",
        ],
        "same": ["Keep the base model: it is as good, and needs no upkeep.", "More or better training pairs may help."],
        "length": [f"Keep the base model and let it read as far: {longer}."],
        "forgot": [
            "Use the fine-tuned model only where all documents are of this kind; elsewhere keep the base.",
            "Train again with fewer epochs, a lower learning rate, or general pairs mixed in.",
        ],
        "better": ["Use the fine-tuned model, and embed the whole collection again with it."],
    }[kind]
    if advice == "use BM25":
        steps = steps[:1]
    if not by_people(decisive):
        steps.append(
            "Write some 50 to 100 questions in the words of those who will ask them, as a set named gold, and judge by "
            "them."
        )
    elif kind == "too few" and need > 2000:
        steps.append("Such a number says that the difference is small: keep the base unless training is cheap.")
    return steps
