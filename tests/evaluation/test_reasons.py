import pandas as pd
import pytest
from retrieval_examples import compared

from nbutils.core import UserError
from nbutils.evaluation.reasons import reasons
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

NOUNS = [
    "ferry",
    "harbour",
    "pilot",
    "anchor",
    "engine",
    "cargo",
    "tariff",
    "lease",
    "winch",
    "rudder",
    "compass",
    "freight",
]
COUNT = 160
ASKED = ["What does the {} of {} {} cost?", "Why was the {} with {} {} chosen?"]


def text(i):
    first, second, third = (NOUNS[(i // len(NOUNS) ** power + power) % len(NOUNS)] for power in (0, 1, 2))
    names = " ".join(f"{chr(97 + (i * k) % 26)}{chr(97 + (i + k) % 26)}{chr(97 + (i // k) % 26)}" for k in range(3, 9))
    return f"The {first} of {second} {third} was built for {names}."


def questions(ask, count=COUNT, chunk=text):
    corpus = {f"c{i}": chunk(i) for i in range(count)}
    asked = {f"q{i}": ask(i) for i in range(count)}
    return EmbeddingQAFinetuneDataset(
        queries=asked, corpus=corpus, relevant_docs={f"q{i}": [f"c{i}"] for i in range(count)}
    )


def plain(i):
    return ASKED[i % 2].format(*text(i).split()[1:4:2], text(i).split()[4])


MIDDLE = [2.0, 4.0, 3.0, 7.0] * (COUNT // 4)
SAME = {"gold": {"base": MIDDLE, "fine-tuned": MIDDLE}}
WENT = {
    "base": {"dev_ndcg@10": 0.5}, "best": {"dev_ndcg@10": 0.52}, "best_step": 5, "steps": 9, "stopped": "no gain",
    "kept": "fine-tuned", "recipe": {"learning_rate": 8e-5}, "train_chunks": 200, "max_seq_length": 256,
}  # fmt: skip


def causes(ranks=SAME, train=None, gold=None, **summary):
    comparison = compared(ranks, gold=gold or questions(plain))
    found = reasons(comparison, train or questions(plain), WENT | summary)
    assert found.map(bool).all(axis=None)
    return set(found.cause)


def test_where_nothing_speaks_for_a_cause_none_is_named():
    assert causes() == set()


def test_a_gain_beyond_chance_needs_no_reason():
    assert causes({"gold": {"base": MIDDLE, "fine-tuned": [1.0] * COUNT}}, train_chunks=3) == set()


UNLIKE = "training questions unlike those asked: "


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train_chunks": 12}, "too few chunks"),
        ({"max_seq_length": 16}, "length cut off"),
        ({"best": {"dev_ndcg@10": 0.501}, "recipe": {"learning_rate": 1e-7}}, "learning rate"),
        ({"kept": "base", "best": {"dev_ndcg@10": 0.5}, "recipe": {"learning_rate": 1e-2}}, "learning rate"),
        ({"best_step": 9, "stopped": "done"}, "stopped too early"),
        ({"best": {"dev_ndcg@10": 0.7}}, "what it learned does not carry over"),
        ({"gold": questions(lambda i: f"{['What', 'Why'][i % 2]} does it cost this much {i}?")}, UNLIKE + "wording"),
        ({"train": questions(lambda i: plain(i) + " " + plain(i))}, UNLIKE + "length"),
        (
            {"gold": questions(lambda i: " ".join([*text(i).split()[1:5:2], "cost", "is", "in", "all"]))},
            UNLIKE + "kind",
        ),
        (
            {"train": questions(lambda i: plain(i // 2), chunk=lambda i: f"{text(i // 2)} In {i}.")},
            "near-copies as false negatives",
        ),
        ({"ranks": {"gold": {"base": [1.0] * COUNT, "fine-tuned": [1.0] * COUNT}}}, "the base is already there"),
        (
            {"ranks": {"gold": {"base": [1.0, 4.0] * (COUNT // 2), "fine-tuned": [4.0, 1.0, 1.0, 4.0] * (COUNT // 4)}}},
            "too few questions to tell",
        ),
    ],
)
def test_each_cause_is_named_where_it_is_made(change, expected):
    assert causes(**change) == {expected}


def test_without_a_summary_nothing_is_said_of_training():
    found = reasons(compared(SAME, gold=questions(plain)), questions(plain, 20))
    assert found.cause.tolist() == ["too few chunks"] and "20 chunks" in found.evidence[0]
    with pytest.raises(UserError, match="no fine-tuned"):
        reasons(compared({"gold": {"base": MIDDLE}}, tuned=None), questions(plain))


@pytest.mark.parametrize(
    ("base", "prompts", "found"), [("e5-small", False, True), ("e5-small", True, False), ("other", False, False)]
)
def test_prompts_that_the_base_was_trained_with_and_that_are_missing_are_named(base, prompts, found):
    comparison = compared(SAME, gold=questions(plain))
    comparison.costs = pd.DataFrame({"system": ["base", "fine-tuned"], "prompts": prompts})
    table = reasons(comparison, questions(plain), WENT | {"base_models": [base]})
    assert table.cause.tolist() == ["prompts missing"] * found
    assert not found or '"query": "query: "' in table.next_step[0]
