"""Whether fine-tuning paid, in plain words that follow from the numbers by rules."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nbutils.core import UserError, asked
from nbutils.evaluation.compare import BM25, Comparison, bare_name, hybrid_name, queries_name
from nbutils.evaluation.forgetting import Forgetting
from nbutils.evaluation.leaks import wording_overlap
from nbutils.evaluation.stats import holm

LEAST_CHUNKS = 30
BORROWED = 0.6  # questions that share more of their words with their chunks flatter keyword search
SEED_NOTE = (
    "The intervals cover which questions were asked, not the luck of training: another SEED trains another model."
)


@dataclass
class Effect:
    """One paired difference between two systems on one question set, as `compare_models` tested it.

    Args:
        system, reference, question_set: what was compared with what, on which questions.
        value, reference_value: means of the metric.
        difference, low, high: difference of the means and its 95 % interval.
        p: permutation p-value; that of the planned comparison stands alone, the others are corrected together.
        questions, chunks: number of questions, and of different chunks that they ask about.
        outcome: "better" or "worse" (p below alpha), else "same" (the whole interval within the margin, from at least
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

    def sentence(self, metric: str, margin: float) -> str:
        """Return the difference in words."""
        ending = {
            "better": "better, beyond chance",
            "worse": "worse, beyond chance",
            "same": f"the same within ±{margin}",
            "unclear": "too little to tell from chance",
        }[self.outcome]
        alone = "no interval: all ask about one chunk"
        interval = f"95 % interval {self.low:+.3f} to {self.high:+.3f}" if self.chunks > 1 else alone
        p = "below 0.001" if self.p < 0.001 else f"{self.p:.3f}"
        return (
            f"On the {self.questions} {asked(self.question_set)}, {self.system} against {self.reference}: "
            f"{metric} {self.value:.3f} against {self.reference_value:.3f}, {self.difference:+.3f} "
            f"({interval}, p {p}): {ending}."
        )


def _effects(
    comparison: Comparison, metric: str, margin: float, alpha: float, also: Sequence[str]
) -> dict[tuple[str, str, str], Effect]:
    """Return (question set, system, reference) -> difference: all systems on the decisive set, the tuned on others."""
    tests = [*comparison.differences.itertuples(), *comparison.contrasts.itertuples()]
    decisive, planned = comparison.decisive, (comparison.decisive, comparison.tuned, comparison.base)
    means = comparison.table[comparison.table.metric == metric].set_index(["question_set", "system"]).value
    found = {}
    for row in (test for test in tests if test.metric == metric):
        if row.question_set == decisive or (row.system in (comparison.tuned, *also) and row.base == comparison.base):
            values = means[row.question_set, row.system], means[row.question_set, row.base]
            found[row.question_set, row.system, row.base] = Effect(
                row.system, row.base, row.question_set, *values, row.difference, row.low, row.high, row.p,
                row.questions, row.chunks,
            )  # fmt: skip
    others = [effect for key, effect in found.items() if key != planned]
    for effect, p in zip(others, holm([effect.p for effect in others]), strict=True):
        effect.p = float(p)
    for effect in found.values():
        if effect.p < alpha:
            effect.outcome = "better" if effect.difference > 0 else "worse"
        else:
            within = -margin <= effect.low and effect.high <= margin and effect.chunks >= LEAST_CHUNKS
            effect.outcome = "same" if within else "unclear"
    return found


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


def verdict(
    comparison: Comparison,
    forgetting: Forgetting | None = None,
    *,
    metric: str = "mrr@10",
    margin: float = 0.02,
    alpha: float = 0.05,
    also: Sequence[str] = (),
    costs: Mapping[str, str] | None = None,
) -> Verdict:
    """Return the verdict on the fine-tuned model.

    All tests are paired, on one metric, and those that `compare_models` made. The planned one, fine-tuned against base
    on the decisive set, stands alone; all others are corrected together by Holm's method. A set says *better* or
    *worse* where p < alpha, *same* where the whole 95 % interval of the difference lies within ± margin (and 30 chunks
    or more are asked about), *unclear* otherwise. The decisive set is the first that people wrote
    (`comparison.human`), if there is one; where there is none, the verdict says so. The first rule that applies gives
    the kind:

    1. `hurt`: the fine-tuned model is worse than the base on the decisive set → keep the base.
    2. `disagree`: better on another set, but not on the decisive one, where the difference is not above 0, or
       is the same → keep the base, get more gold questions.
    3. `too few`: the decisive set is unclear → get more data (the number of questions that would settle it is given).
    4. `same`: no difference worth the name → keep the base.
    5. `length`: better than the base as shipped, but so is the base read to the same length, and the fine-tuned model
       is not better than that one (neither beyond chance nor by more than the margin) → keep the base, read that far.
    6. `forgot`: better, but `forgetting` says that general knowledge fell beyond its threshold → keep the base,
       or use the model on such documents only.
    7. `better` → use it.

    After that: where the chosen model (the fine-tuned one for `better`, else the base) is beaten by BM25 or by its own
    hybrid with BM25 on the decisive set, the advice of rules 1, 2, 4, 5, 6 and 7 becomes to use hybrid; or to use BM25
    alone, where it beats that hybrid too. Not so on questions that people did not write and that take more than 60 %
    of their words from the chunks: keyword search looks better on these than it is, and the verdict only says that.

    Where index queries are better than the chosen model alone, a step says so; where headers make a difference to what
    is to be deployed, another one.

    Args:
        comparison: with a fine-tuned system.
        forgetting: result of `check_forgetting`.
        metric: that decides. MRR@10, how soon the first relevant chunk comes, means the same for questions with one
            relevant chunk and for those with several.
        margin: a difference that nobody would notice.
        alpha: significance level.
        also: other fine-tuned systems, whose differences from the base are told on every set that judges them.
        costs: what it cost, name -> text, e.g. {"training": "153 s on 2 cores"}.

    Raises:
        UserError: no fine-tuned system, or an unknown metric.
    """
    base, tuned, decisive = comparison.base, comparison.tuned, comparison.decisive
    if tuned is None:
        raise UserError("The comparison holds no fine-tuned system. Name it with compare_models(…, tuned=…).")
    if metric not in comparison.per_query:
        raise UserError(f"There is no metric {metric!r} in the comparison.")
    also = [system for system in also if system != tuned]
    effects = _effects(comparison, metric, margin, alpha, also)

    def on_decisive(system: str | None, reference: str | None) -> Effect | None:
        return effects.get((decisive, system, reference))

    main = effects[decisive, tuned, base]
    from_base = [effect for effect in effects.values() if effect.reference == base]
    others = [effect for effect in from_base if effect.system == tuned and effect is not main]
    rest = [effect for effect in from_base if effect.system in also]
    length = [on_decisive(comparison.same_length, base), on_decisive(tuned, comparison.same_length)]
    kind = _kind(main, others, length, forgetting, margin)

    chosen = tuned if kind == "better" else base
    bm25, hybrid = on_decisive(BM25, chosen), on_decisive(hybrid_name(chosen), chosen)
    hybrid_to_bm25 = on_decisive(hybrid_name(chosen), BM25)
    index_queries = on_decisive(queries_name(chosen), chosen)
    ahead = any(effect and effect.outcome == "better" for effect in (bm25, hybrid))
    by_people = decisive in comparison.human
    wording = {name: wording_overlap(data).mean() for name, data in comparison.datasets.items()}
    flattered = not by_people and wording[decisive] > BORROWED
    advice = {"better": "use it", "too few": "get more data"}.get(kind, "keep the base")
    if ahead and not flattered and kind != "too few":
        alone = bm25 and hybrid_to_bm25 and (bm25.outcome, hybrid_to_bm25.outcome) == ("better", "worse")
        advice = "use BM25" if alone else "use hybrid"

    deployed = hybrid_name if advice == "use hybrid" else str
    headers = on_decisive(deployed(chosen), deployed(bare_name(chosen))) if advice != "use BM25" else None

    shown = [main, *others, *rest, *length, bm25, hybrid, hybrid_to_bm25 if ahead else None, headers, index_queries]
    lines = [effect.sentence(metric, margin) for effect in shown if effect]
    lines += [_wording(name, share, name in comparison.human) for name, share in wording.items()]
    if forgetting is not None:
        lines.append("Forgetting: " + str(forgetting).replace("\n", " "))
    lines += [*_cost_lines(comparison, costs or {}), *comparison.notes, SEED_NOTE]
    steps = _steps(kind, advice, main, chosen, comparison.same_length, margin, by_people)
    if index_queries and index_queries.outcome == "better":
        steps.append(
            f"Put the training queries into the index: {chosen} then finds a chunk by them, too, which is better."
        )
    if headers and headers.outcome in ("better", "worse"):
        helps = headers.outcome == "better"
        how = "Keep the headers before the chunks" if helps else "Leave the headers out of the index (CHUNK_HEADER)"
        steps.append(f"{how}: {deployed(chosen)} finds more that way.")
    if ahead and flattered:
        steps.append("Do not choose keyword search or hybrid by these questions: they borrow their chunks' words.")
    headline = _headline(kind, comparison, main, metric, [e.question_set for e in others if e.outcome == "better"])
    if not by_people and kind != "too few":
        headline += " Whether that holds for questions that people ask is not known."
    return Verdict(kind, advice, f"{headline} Advice: {advice}.", lines, steps, list(effects.values()))


def _kind(
    main: Effect, others: list[Effect], length: list[Effect | None], forgetting: Forgetting | None, margin: float
) -> str:
    if main.outcome == "worse":
        return "hurt"
    if main.outcome != "better":
        gained_elsewhere = any(effect.outcome == "better" for effect in others)
        if gained_elsewhere and (main.outcome == "same" or main.difference <= 0):
            return "disagree"
        return "too few" if main.outcome == "unclear" else "same"
    longer, beyond = length
    if longer and longer.outcome == "better" and beyond.outcome != "better" and beyond.difference <= margin:
        return "length"
    return "forgot" if forgetting is not None and forgetting.forgot else "better"


def _headline(kind: str, comparison: Comparison, main: Effect, metric: str, gained: Sequence[str]) -> str:
    rows = comparison.per_query[comparison.per_query.question_set == main.question_set]
    per_100 = rows.groupby("system")["hit_rate@5"].mean() * 100
    before, after = per_100[comparison.base], per_100[comparison.tuned]
    shift = (
        f"of 100 {asked(main.question_set)} it finds a relevant chunk among the first 5 for {after:.0f}, the base "
        f"for {before:.0f}"
    )
    if kind in ("better", "hurt", "forgot"):
        up = main.difference > 0
        moved = f"its {metric} is {'higher' if up else 'lower'}"
        if metric == "mrr@10":
            moved = f"the first relevant chunk comes {'sooner' if up else 'later'}"
        shift += f", {'and' if (after > before) == up else 'but'} {moved} ({metric} {main.value:.3f} against {main.reference_value:.3f})"
    return {
        "hurt": f"Fine-tuning hurt: {shift}.",
        "disagree": f"The question sets disagree: fine-tuning helps on {' and '.join(gained)} questions, but not on "
        f"{main.question_set} ones ({shift}).",
        "too few": f"There are too few questions to tell whether fine-tuning helped: {shift}.",
        "same": f"Fine-tuning made no difference: {shift}.",
        "length": f"Reading length helped, fine-tuning did not: {comparison.same_length} does as well ({shift}).",
        "forgot": f"The fine-tuned model is better here, but forgot general knowledge: {shift}.",
        "better": f"Fine-tuning helped: {shift}.",
    }[kind]  # fmt: skip


def _wording(question_set: str, share: float, by_people: bool) -> str:
    borrowed = share > BORROWED and not by_people
    tail = ": keyword search looks better on them than it will on people's" if borrowed else ""
    return f"{share:.0%} of the content words of the {asked(question_set)} stand in their chunk{tail}."


def _cost_lines(comparison: Comparison, costs: Mapping[str, str]) -> list[str]:
    lines = [f"Cost, {name}: {text}." for name, text in costs.items()]
    if comparison.costs is not None:
        rows = comparison.costs.set_index("system")
        base, tuned = rows.loc[comparison.base], rows.loc[comparison.tuned]
        if (base.dimensions, base.parameters) == (tuned.dimensions, tuned.parameters):
            lines.append(f"Search costs the same as with the base: {int(tuned.dimensions)} numbers per chunk.")
        else:
            lines.append(f"A chunk takes {int(tuned.dimensions)} numbers (the base: {int(base.dimensions)}).")
    return lines


def questions_needed(effect: Effect, margin: float = 0.02) -> tuple[int, float]:
    """Return how many questions would settle a difference with 80 % power at the 5 % level, and which difference.

    The difference is the observed one, or the margin where that is larger. The standard error is taken from the
    interval and shrinks with the root of the number of questions. The number is never less than 3 / margin: only so
    many questions without a change bound the share of changes below the margin (the rule of three).
    """
    settled = max(abs(effect.difference), margin)
    error = np.nan_to_num((effect.high - effect.low) / (2 * 1.96))
    factor = ((1.96 + 0.84) * error / settled) ** 2
    return int(np.ceil(max(effect.questions * max(factor, 1.0), 3 / margin) / 10) * 10), settled


def _steps(
    kind: str, advice: str, main: Effect, chosen: str, same_length: str | None, margin: float, by_people: bool
) -> list[str]:
    need, settled = questions_needed(main, margin)
    guess = main.system if main.difference > 0 else main.reference
    steps = {
        "hurt": [
            "Keep the base model; do not deploy the fine-tuned one.",
            "Look at the losses below: bad training questions show there first.",
        ],
        "disagree": [
            "Keep the base model until the questions that count improve.",
            "Train on questions nearer to those that people ask: another generator, or real queries from a log.",
        ],
        "too few": [
            f"Write more {asked(main.question_set)}: about {need} in all would settle a difference of "
            f"{settled:.3f}.",
            f"Until then {guess} is the better guess, and no more." if main.difference
            else "Until then keep the base: nothing speaks against it.",
        ],
        "same": ["Keep the base model: it is as good, and needs no upkeep.", "More or better training pairs may help."],
        "length": [f"Keep the base model, with the fine-tuned model's reading length: {same_length}."],
        "forgot": [
            "Use the fine-tuned model only where all documents are of this kind; elsewhere keep the base.",
            "Train again with fewer epochs, a lower learning rate, or general pairs mixed in.",
        ],
        "better": ["Use the fine-tuned model, and embed the whole collection again with it."],
    }[kind]  # fmt: skip
    if advice == "use hybrid":
        steps = [f"Search with {chosen} and BM25 together, as HybridRetriever does (notebook 6).", *steps]
    if advice == "use BM25":
        steps = [f"Search with BM25 alone: it did better than {chosen}, and than the hybrid."]
    if not by_people:
        steps.append("Write some 50 to 100 questions in the words of those who will ask them, and judge by them.")
    elif kind == "too few" and need > 2000:
        steps.append("Such a number says that the difference is small: keep the base unless training is cheap.")
    return steps
