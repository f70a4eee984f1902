import math

import numpy as np
import pytest
from retrieval_examples import compared

from nbutils.core import UserError
from nbutils.evaluation.verdict import Effect, questions_needed, verdict

GOOD, MIDDLE, BAD = [1.0] * 200, [2.0] * 200, [8.0] * 200


NOISE = list(np.random.default_rng(0).permutation([1.0, 9.0] * 100))


OTHER_NOISE = list(np.random.default_rng(1).permutation([1.0, 9.0] * 100))


UP = [max(1.0, value - 8) if i % 6 == 0 else value for i, value in enumerate(NOISE)]
UP_A_BIT = [1.0 if i in (0, 6, 12, 18, 24) else value for i, value in enumerate(NOISE)]
LUCKY = list(np.random.default_rng(2).permutation([1.0, 9.0] * 92 + [1.0] * 16))


class Forgot:
    forgot = True

    def __str__(self):
        return "general: 0.8 → 0.5"


@pytest.mark.parametrize(
    ("ranks", "forgetting", "kind", "advice"),
    [
        ({"gold": {"base": MIDDLE, "fine-tuned": GOOD}}, None, "better", "use it"),
        ({"gold": {"base": MIDDLE, "fine-tuned": BAD}}, None, "hurt", "keep the base"),
        ({"synthetic": {"base": MIDDLE, "fine-tuned": BAD}}, None, "hurt", "keep the base"),
        ({"gold": {"base": MIDDLE, "fine-tuned": MIDDLE}}, None, "same", "keep the base"),
        ({"gold": {"base": NOISE, "fine-tuned": OTHER_NOISE}}, None, "too few", "get more data"),
        ({"gold": {"base": MIDDLE, "fine-tuned": GOOD}}, Forgot(), "forgot", "keep the base"),
        ({"gold": {"base": MIDDLE, "base, 512 tokens": GOOD, "fine-tuned": GOOD}}, None, "length", "keep the base"),
        ({"gold": {"base": BAD, "base, 512 tokens": MIDDLE, "fine-tuned": GOOD}}, None, "better", "use it"),
        ({"gold": {"base": BAD, "base, 512 tokens": NOISE, "fine-tuned": LUCKY}}, None, "better", "use it"),
        # the base read to that length is not shown to be better than the base as shipped
        ({"gold": {"base": NOISE, "base, 512 tokens": UP_A_BIT, "fine-tuned": UP}}, None, "better", "use it"),
        (
            {"synthetic": {"base": MIDDLE, "fine-tuned": GOOD}, "gold": {"base": MIDDLE, "fine-tuned": MIDDLE}},
            None, "disagree", "keep the base",
        ),
        (
            {"synthetic": {"base": MIDDLE, "fine-tuned": GOOD}, "gold": {"base": MIDDLE, "fine-tuned": BAD}},
            None, "hurt", "keep the base",
        ),
        (
            {"gold": {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "base + BM25": GOOD, "fine-tuned + BM25": GOOD}},
            None, "better", "use hybrid",
        ),
        (
            {"gold": {"base": MIDDLE, "fine-tuned": BAD, "BM25": GOOD, "base + BM25": GOOD, "fine-tuned + BM25": GOOD}},
            None, "hurt", "use hybrid",
        ),
        (
            {"gold": {"base": BAD, "fine-tuned": MIDDLE, "BM25": BAD, "base + BM25": BAD, "fine-tuned + BM25": BAD}},
            None, "better", "use it",
        ),
        (
            {"gold": {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "fine-tuned + BM25": MIDDLE}},
            None, "better", "use BM25",
        ),
        (
            {"synthetic": {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "fine-tuned + BM25": GOOD}},
            None, "better", "use it",
        ),
        ({"gold": {"base": MIDDLE[:5], "fine-tuned": MIDDLE[:5]}}, None, "too few", "get more data"),
        ({"gold": {"base": MIDDLE[:1], "fine-tuned": GOOD[:1]}}, None, "too few", "get more data"),
    ],
)  # fmt: skip
def test_the_verdict_follows_its_rules(ranks, forgetting, kind, advice):
    answer = verdict(compared(ranks), forgetting)
    assert (answer.kind, answer.advice) == (kind, advice)
    assert f"Advice: {advice}." in answer.headline
    assert answer.next_steps and answer.lines
    if advice.startswith("use "):
        first = {"use hybrid": "BM25 together", "use BM25": "BM25 alone", "use it": "Use the fine-tuned model"}
        assert first[advice] in answer.next_steps[0]
    assert any("in the words of those who will ask" in step for step in answer.next_steps) == ("gold" not in ranks)
    assert ("not known" in answer.headline) == ("gold" not in ranks)
    assert "nan" not in str(answer)


def test_keyword_search_is_not_advised_by_questions_that_borrow_its_words():
    ranks = {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "fine-tuned + BM25": GOOD}
    answer = verdict(compared({"synthetic": ranks}))
    assert any("Do not choose keyword search" in step for step in answer.next_steps)
    assert any("keyword search looks better on them" in line for line in answer.lines)
    assert not any("keyword search looks better on them" in line for line in verdict(compared({"gold": ranks})).lines)


def test_the_headline_does_not_contradict_itself():
    mixed = [1.0] * 190 + [9.0] * 10
    answer = verdict(compared({"gold": {"base": [4.0] * 200, "fine-tuned": mixed}}))
    assert "but the first relevant chunk comes sooner" in answer.headline
    answer = verdict(compared({"gold": {"base": GOOD, "fine-tuned": BAD}}))
    assert "and the first relevant chunk comes later" in answer.headline


def test_the_verdict_reads_as_text_and_escaped_html():
    answer = verdict(compared({"gold": {"base": MIDDLE, "fine-tuned": GOOD}}), costs={"training": "<b>3 s</b>"})
    assert "What to do next:\n1. Use the fine-tuned model" in str(answer)
    shown = answer._repr_html_()
    assert "<b>" not in shown and "&lt;b&gt;3 s" in shown and 'data-kind="better"' in shown
    with pytest.raises(UserError, match="no fine-tuned system"):
        verdict(compared({"gold": {"base": GOOD}}, tuned=None))
    with pytest.raises(UserError, match="no metric 'x'"):
        verdict(compared({"gold": {"base": GOOD, "fine-tuned": GOOD}}), metric="x")


def test_a_name_does_not_say_that_people_wrote_a_set():
    answer = verdict(compared({"goldman_10k": {"base": MIDDLE, "fine-tuned": GOOD}}))
    assert "not known" in answer.headline


def test_report_and_table_show_the_same_p():
    comparison = compared({"gold": {"base": NOISE, "fine-tuned": OTHER_NOISE, "BM25": LUCKY}})
    (row,) = comparison.differences.query("system == 'fine-tuned' and metric == 'mrr@10'").itertuples()
    answer = verdict(comparison)
    assert answer.effects[0].p == row.p
    assert f"p {row.p:.3f})" in answer.lines[0]


def test_what_would_be_settled_is_said_with_its_number():
    comparison = compared({"gold": {"base": NOISE, "fine-tuned": [*NOISE[:-1], 8.0]}})
    effect = verdict(comparison).effects[0]
    assert abs(effect.difference) < 0.02
    assert questions_needed(effect)[1] == 0.02
    noisy = verdict(compared({"gold": {"base": NOISE, "fine-tuned": OTHER_NOISE}}))
    need, settled = questions_needed(noisy.effects[0])
    assert f"about {need} in all would settle a difference of {settled:.3f}" in noisy.next_steps[0]


def test_reading_less_is_not_called_reading_further():
    answer = verdict(compared({"gold": {"base": MIDDLE, "base, 128 tokens": GOOD, "fine-tuned": GOOD}}))
    assert answer.kind == "length" and "further" not in str(answer) and "base, 128 tokens" in answer.headline


def test_the_verdict_says_that_the_seed_is_not_covered():
    assert any("SEED" in line for line in verdict(compared({"gold": {"base": MIDDLE, "fine-tuned": GOOD}})).lines)


def test_questions_needed_falls_with_the_effect():
    def effect(difference):
        return Effect("a", "b", "s", 0, 0, difference, difference - 0.05, difference + 0.05, 0.5, 100, 100)

    (small, _), (large, settled) = questions_needed(effect(0.03)), questions_needed(effect(0.06))
    assert small > large >= 100 and settled == 0.06
    expected = 100 * (2.8 * 0.1 / 3.92 / 0.03) ** 2
    assert small == math.ceil(expected / 10) * 10


@pytest.mark.parametrize(
    ("chosen", "systems"),
    [("base", {"base": MIDDLE, "fine-tuned": MIDDLE}), ("fine-tuned", {"base": BAD, "fine-tuned": MIDDLE})],
)
def test_index_queries_are_a_step_where_they_help_the_chosen_model(chosen, systems):
    answer = verdict(compared({"gold": systems | {f"{chosen} + index queries": GOOD}}))
    assert f"Put the training queries into the index: {chosen} then" in answer.next_steps[-1]
    unmoved = verdict(compared({"gold": systems | {f"{chosen} + index queries": MIDDLE}}))
    assert "index: " not in str(unmoved.next_steps)


def test_whether_headers_help_is_told_of_what_is_to_be_deployed():
    systems = {"base": BAD, "fine-tuned": MIDDLE}
    answer = verdict(compared({"gold": systems | {"fine-tuned, no headers": BAD}}))
    assert answer.next_steps[-1] == "Keep the headers before the chunks: fine-tuned finds more that way."
    worse = verdict(compared({"gold": systems | {"fine-tuned, no headers": GOOD}}))
    assert "Leave the headers out of the index" in worse.next_steps[-1]
    alike = verdict(compared({"gold": systems | {"fine-tuned, no headers": MIDDLE}}))
    assert "headers" not in str(alike.next_steps) and "against fine-tuned, no headers" in str(alike.lines)
    hybrid = {"fine-tuned + BM25": GOOD, "fine-tuned, no headers": GOOD, "fine-tuned, no headers + BM25": MIDDLE}
    answer = verdict(compared({"gold": systems | {"BM25": BAD} | hybrid}))
    assert answer.advice == "use hybrid"
    assert answer.next_steps[-1] == "Keep the headers before the chunks: fine-tuned + BM25 finds more that way."
