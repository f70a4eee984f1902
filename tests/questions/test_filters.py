"""What the filters drop, and what they must not."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.core import UserError
from nbutils.questions.filters import (
    brings_back,
    drop_reasons,
    is_contents,
    near_duplicates,
    points_away,
    words,
)
from nbutils.questions.settings import Filters


@pytest.mark.parametrize(
    "question",
    [
        "According to the table above, what was the revenue?",
        "According to the context information, how are payments funded?",
        "Based on the information provided, what drove the loss?",
        "What does this passage say about drivers?",
        "Which risks are mentioned in the document?",
        "What is the purpose of the section below?",
        "Which of the above-mentioned plans was adopted?",
        "How did revenue change, as described above?",
        "As a teacher, how would you explain deferred tax?",
        "What is the significance of the number 9 in the given context?",
        "Give examples of each level from the given tables.",
        "In the context of the financial information provided, why did sales fall?",
        "Wie hoch war der Umsatz laut dem Text?",
        "Welche der oben genannten Risiken sind neu?",
        "Selon le texte, quel est le chiffre d'affaires ?",
        "Según el texto, ¿quién dirige la empresa?",
        "Secondo il testo, chi dirige l'azienda?",
        "Volgens de tekst, wie leidt het bedrijf?",
        "Согласно этому отрывку, кто директор?",
        "根据上文，公司的收入是多少？",
        "この文章によると、社長は誰ですか？",
    ],
)
def test_questions_that_lean_on_an_unseen_text(question):
    assert points_away(question)


@pytest.mark.parametrize(
    "question",
    [
        "How does Lyft account for text messages sent to riders?",
        "In the context of lease accounting, what is a finance lease?",
        "Who is liable for the information provided in Exhibit 31.1?",
        "Is my fare set from the data given by other riders?",
        "What is the text of the arbitration clause?",
        "Which section of the tax code covers parachute payments?",
        "How many tables does the restaurant have?",
        "What is context switching in operating systems?",
        "What was the net loss in the following year?",
        "Which documents must drivers provide?",
        "How do I sign a document electronically?",
        "Is growth above the market average?",
        "What is stated in the bylaws of Netflix about voting?",
        "Wie hoch war der Umsatz im Jahr 2021?",
        "Quels documents faut-il fournir ?",
        "revenue per active rider 2021",
        "passenger rights in the EU",
        "Was inventory stated below cost?",
        "Which figures above $1 million were reported?",
        "Were the shares listed below par value?",
        "Is the figure above $5 billion?",
        "Which debts are shown below fair value?",
        "How are assets described here in Norway taxed?",
        "Was goodwill listed above the carrying amount?",
        "What is in the document retention policy?",
        "Which taxes apply to the information technology segment?",
    ],
)
def test_questions_that_stand_alone(question):
    assert not points_away(question)


def test_words_of_many_scripts():
    assert words("Net loss, 2021: $1,009.4 million") == ["net", "loss", "2021", "1,009.4", "million"]
    assert words("公司收入 Lyft 是") == ["公司", "司收", "收入", "lyft", "是"]
    assert words("Größe ИМЯ ＡＢＣ") == ["grösse", "имя", "abc"]
    assert words("") == []


def test_length_filter():
    questions = [("a", "revenue"), ("a", "lyft revenue"), ("a", "word " * 61), ("a", "公司收入"), ("a", "何")]
    reasons = drop_reasons(questions, {"a": ""}, Filters(self_contained=False, near_duplicates=0))
    assert reasons == ["length", "", "length", "", "length"]


def test_near_duplicates_by_hand():
    texts = [
        "What was the revenue of Lyft in 2021?",
        "what was the revenue of lyft in 2021",
        "What was the revenue of Lyft in 2020?",
        "In 2021, what was the Lyft revenue of?",
        "How many drivers did Lyft have?",
        "How many drivers did Uber have?",
    ]
    assert near_duplicates(texts, 0.8) == {1: 0, 3: 0}
    assert near_duplicates(texts, 0.7) == {1: 0, 3: 0, 5: 4}
    assert near_duplicates([], 0.8) == {}


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdefgh12"), min_size=1, max_size=8).map(" ".join), max_size=25),
    st.sampled_from([0.3, 0.5, 0.75, 0.85, 1.0]),
)
def test_near_duplicates_equal_a_comparison_of_all_pairs(texts, threshold):
    sets = [frozenset(words(text)) for text in texts]
    expected = {}
    for i, one in enumerate(sets):
        for j in range(i):
            alike = len(one & sets[j]) >= threshold * len(one | sets[j]) - 1e-9
            if j not in expected and alike and one & {"1", "2"} == sets[j] & {"1", "2"}:
                expected[i] = j
                break
    assert near_duplicates(texts, threshold) == expected


def test_ten_thousand_questions_are_compared():
    rng = random.Random(1)
    vocabulary = [f"w{i}" for i in range(3000)]
    starts = ["what was the", "how did the company", "what is the impact of", "which of the"]
    texts = [f"{rng.choice(starts)} {' '.join(rng.choices(vocabulary, k=8))}" for _ in range(9_000)]
    copies = [text + "?" for text in rng.sample(texts, 1_000)]
    repeats = near_duplicates(texts + copies, 0.85)
    assert set(range(9_000, 10_000)) <= set(repeats)


PROSE = (
    "The company leases bicycles and scooters to riders in nine cities. Revenue grew because more riders came back to "
    "the platform after the pandemic, and drivers were paid incentives to return as well. Costs grew more slowly. "
)
CONTENTS = "TABLE OF CONTENTS\n" + "\n".join(f"Item {i}. Matters of the {i}th kind {i * 5}" for i in range(1, 16))
LEADERS = "Inhalt\n" + "\n".join(f"{name} der Firma ........ {i * 9}" for i, name in enumerate(["Lage", "Plan"] * 5))


@pytest.mark.parametrize("text", [CONTENTS, LEADERS], ids=["numbered", "leaders"])
def test_a_table_of_contents_is_told_from_prose(text):
    assert is_contents(text)


@pytest.mark.parametrize(
    "text",
    [
        PROSE * 3,
        PROSE * 3 + "As Item 7 says on page 12, the offer was signed /s/ by the chief executive.",
        PROSE * 4 + "\nBy: /s/ A. Baker\n/s/ C. Dole",
        "Item 1. " + PROSE * 2 + "\nItem 2. " + PROSE * 2,
        "2.1 Voting. " + PROSE + "\n2.2 Shares. " + PROSE + "\n2.3 Rights. " + PROSE,
        "Net revenue was 3,208 in 2021 and 2,364 in 2020. " + PROSE,
        "公司向骑手出租自行车和踏板车。由于疫情之后更多骑手回到平台，收入增长。" * 5,
    ],
)
def test_prose_stays(text):
    assert not is_contents(text)


@pytest.mark.slow
def test_little_of_a_filing_is_junk():
    import json
    from pathlib import Path

    path = Path(__file__).parents[3] / "shared" / "data" / "lyft_2021_gpt35_questions.json"
    if not path.is_file():
        pytest.skip("needs shared/data")
    chunks = json.loads(path.read_text())["corpus"].values()
    junk = [text for text in chunks if is_contents(text)]
    assert len(junk) <= 0.02 * len(chunks)


CORPUS = {
    "bikes": "Riders rent bicycles and scooters in nine cities.",
    "tax": "A valuation allowance was recorded against deferred tax assets.",
    "board": "The directors elect a chair every spring.",
    "pages": CONTENTS,
}


def test_round_trip_by_bm25():
    questions = ["where can riders rent scooters", "deferred tax valuation allowance", "who elects the chair"]
    assert brings_back(questions, ["bikes", "tax", "board"], CORPUS, 1) == [True, True, True]
    assert brings_back(questions, ["tax", "tax", "bikes"], CORPUS, 1) == [False, True, False]
    assert brings_back(questions, ["bikes", "tax", "tax"], CORPUS, 99) == [True, True, False]
    assert brings_back([], [], CORPUS, 3) == []


def test_round_trip_by_a_model():
    questions = ["Where can I hire a bike?", "Who picks the head of the board?"]
    assert brings_back(questions, ["bikes", "board"], CORPUS, 1, "all-MiniLM-L6-v2") == [True, True]
    assert brings_back(questions, ["tax", "tax"], CORPUS, 1, "all-MiniLM-L6-v2") == [False, False]


def test_filters_apply_in_turn_and_name_the_first_that_drops():
    questions = [
        ("bikes", "Where do riders rent scooters?"),
        ("bikes", "Where do riders rent scooters"),
        ("tax", "What does the table above show about tax?"),
        ("tax", "Which chair do directors elect in spring?"),
        ("board", "Chair"),
    ]
    reasons = drop_reasons(questions, CORPUS, Filters(round_trip=1))
    assert reasons == ["", "near-duplicate", "not self-contained", "round trip", "length"]
    off = Filters(min_words=0, self_contained=False, near_duplicates=0)
    assert drop_reasons(questions, CORPUS, off) == [""] * 5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"near_duplicates": 1.2}, "near_duplicates is 1.2"),
        ({"round_trip": -1}, "round_trip is -1"),
        ({"min_words": 9, "max_words": 3}, "min_words"),
    ],
)
def test_switches_that_cannot_be_are_named(options, reason):
    with pytest.raises(UserError, match=reason):
        Filters(**options)


def test_a_piece_of_a_contents_page_with_dot_leaders_is_no_prose():
    piece = (
        ". . . . . . . . . . . . . . . . . . . . . 6\nSeasonality " + ". " * 60 + "11\nRegulation " + ". " * 50 + "12"
    )
    assert is_contents(piece)
    assert not is_contents("We wait . . . . and then we sail. The ferry leaves at noon, and the crew rests until then.")
