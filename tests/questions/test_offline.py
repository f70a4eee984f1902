"""The query generator that needs no LLM."""

import json
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode

from nbutils.questions.offline import OfflineQuestionWriter, read_prompt
from nbutils.questions.prompts import DEFAULT_QA_GENERATE_PROMPT_TMPL, EXAM_PROMPT_TMPL, render_prompt

SUBJECTS = ["pumps", "valves", "turbines", "filters", "sensors", "boilers", "meters", "gaskets", "blowers", "chillers"]
PLACES = ["Oslo", "Lisbon", "Krakow", "Ghent", "Turin", "Malmo", "Porto", "Lyon", "Graz", "Cork"]

MANUAL = """To replace the filter, first unplug the machine and wait until the motor has stopped. Open the front cover
by pressing the two latches. If the indicator light blinks red, the tank is full and must be emptied. Do not use
solvents to clean the housing, because they may damage the plastic. The battery should be charged for at least four
hours before the first use. You can order spare filters from your dealer."""
GERMAN = """Die Gesellschaft hat im Geschäftsjahr 2022 einen Umsatz von 12,4 Mio. Euro erzielt, der um 8 % über dem
Vorjahr liegt. Der Anstieg ist vor allem auf die gestiegene Nachfrage nach Wärmepumpen und den Ausbau des Vertriebs in
Österreich zurückzuführen. Risiken ergeben sich aus der Abhängigkeit von einzelnen Lieferanten."""
FINNISH = """Yhtiön liikevaihto kasvoi vuonna 2022 kahdeksan prosenttia ja oli 12,4 miljoonaa euroa. Kasvu johtui
pääasiassa lämpöpumppujen kysynnästä sekä jakeluverkoston laajentamisesta Virossa. Hallitus ehdottaa osinkoa."""
HINDI = """कंपनी ने पिछले वर्ष तीन नए कारखाने खोले और दो पुराने बंद किए। निदेशक मंडल ने लाभांश बढ़ाने का प्रस्ताव रखा है।"""


def report(number: int) -> str:
    """One of many different chunks of a made annual report."""
    rng = random.Random(number)
    a, b = rng.sample(SUBJECTS, 2)
    place = rng.choice(PLACES)
    return (
        f"In 2021, sales of {a} in {place} increased {rng.randint(2, 30)}% because dealers ordered earlier. "
        f"Our plant in {place} could be closed if the supply of {b} is disrupted for several weeks. "
        f"We lease {rng.randint(2, 9)} warehouses near {place} under agreements that expire in {2026 + number}. "
        f"The Company measures its stock of {b} from supplier {number} at the lower of cost and realizable value."
    )


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return [report(i) for i in range(60)] + [MANUAL]


@pytest.fixture(scope="module")
def writer(corpus) -> OfflineQuestionWriter:
    return OfflineQuestionWriter.for_corpus(corpus)


def all_sentences(text: str, others: tuple[str, ...] = ()) -> set[str]:
    writer = OfflineQuestionWriter.for_corpus([text, *others], kinds=("sentence",))
    return {query for query in writer.questions(text, 20) if re.search(r"[.!?।]$", query)}


@pytest.mark.parametrize("template", [DEFAULT_QA_GENERATE_PROMPT_TMPL, EXAM_PROMPT_TMPL])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_answers_our_prompts_with_as_many_queries_as_asked_for(writer, template, number):
    answer = writer.complete(render_prompt(template, MANUAL, number)).text
    assert answer.splitlines() == writer.questions(MANUAL, number)
    assert len(set(answer.splitlines())) == number


@pytest.mark.parametrize(
    "prompt, number",
    [
        ("Context:\n=====\n{}\n=====\nWrite 3 questions.", 3),
        ("<document>{}</document>\n\nGenerate exactly 4 short search queries.", 4),
        ("```\n{}\n```\nSet 7 questions.", 7),
        ('"""\n{}\n"""\nAsk something.', 2),
        ("Ask 6 questions about the following.\n\n{}", 6),
        ("-----\n{}\n-----\nStelle 5 Fragen zu diesem Text.", 5),
    ],
)
def test_finds_text_and_number_in_other_prompts(prompt, number):
    text = " ".join(MANUAL.split())
    assert read_prompt(prompt.replace("{}", text)) == (text, number)


def test_dashed_lines_and_numbers_in_the_text_do_not_confuse_it():
    text = "Notes\n-----\nWe answered 12 questions of 9 customers.\n-----\nEnd of the notes"
    assert read_prompt(render_prompt(EXAM_PROMPT_TMPL, text, 3)) == (text, 3)


def test_the_same_seed_gives_the_same_queries_in_any_order_and_thread(corpus):
    first = [OfflineQuestionWriter.for_corpus(corpus).questions(text, 3) for text in corpus]
    writer = OfflineQuestionWriter.for_corpus(corpus)
    assert [writer.questions(text, 3) for text in reversed(corpus)] == first[::-1]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: writer.questions(text, 3), corpus * 3)) == first * 3


@pytest.mark.slow
def test_the_same_seed_gives_the_same_queries_in_another_process(corpus, writer):
    code = (
        "import json, sys; from nbutils.questions.offline import OfflineQuestionWriter; corpus = json.load(sys.stdin); "
        "writer = OfflineQuestionWriter.for_corpus(corpus); print(json.dumps([writer.questions(t, 3) for t in corpus]))"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    there = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(corpus),
        env=os.environ | {"PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(there) == [writer.questions(text, 3) for text in corpus]


def test_another_seed_gives_other_queries_and_another_model_name(corpus):
    one, two = (OfflineQuestionWriter.for_corpus(corpus, seed=seed) for seed in (0, 1))
    assert one.metadata.model_name != two.metadata.model_name
    assert sum(one.questions(text) != two.questions(text) for text in corpus) > 0.7 * len(corpus)


def test_fewer_queries_are_the_first_of_more(writer):
    assert writer.questions(MANUAL, 6)[:2] == writer.questions(MANUAL, 2)


def test_fit_of_a_copy_leaves_the_original_alone(corpus):
    writer = OfflineQuestionWriter()
    before = writer.questions(report(3))
    fitted = writer.model_copy().fit(corpus)
    assert writer.questions(report(3)) == before
    assert fitted.questions(report(3)) == OfflineQuestionWriter.for_corpus(corpus).questions(report(3))


def test_streams_the_same_answer(writer):
    prompt = render_prompt(EXAM_PROMPT_TMPL, MANUAL, 3)
    pieces = list(writer.stream_complete(prompt))
    assert "".join(piece.delta for piece in pieces) == pieces[-1].text == writer.complete(prompt).text


def test_takes_llamaindex_nodes():
    texts = [report(i) for i in range(5)]
    nodes = [TextNode(text=text, metadata={"file_name": "a.pdf"}) for text in texts]
    of_nodes, of_texts = (OfflineQuestionWriter.for_corpus(part).questions(report(1)) for part in (nodes, texts))
    assert of_nodes == of_texts


def test_sentences_are_those_of_the_text_whole():
    assert all_sentences(MANUAL) == set(re.split(r"(?<=\.)\s+", " ".join(MANUAL.split())))


@pytest.mark.parametrize("text, count", [(GERMAN, 2), (FINNISH, 2), (HINDI, 1)])
def test_takes_sentences_of_any_language_that_parts_words_by_spaces(text, count):
    found = all_sentences(text)
    assert len(found) >= count and all(sentence in " ".join(text.split()) for sentence in found)


@pytest.mark.parametrize(
    "junk",
    [
        "Total current assets 120,331 98,221 Inventories 33,870 28,402 Receivables 61,001 57,555.",
        "UNITED STATES SECURITIES AND EXCHANGE COMMISSION WASHINGTON DC ANNUAL REPORT.",
        "which the parties had agreed upon in the course of the year before.",
        "We bought goods from suppliers in the north (see the note on page four.",
        "We could not find ourfuture sales forecastsThe board meets in spring every year.",
        "Contents of this report ........ 12 ........ and what comes after it.",
        "The whole of it, " + "and more of it, " * 9 + "was sold.",
        "The valves are described in the following words: “the best of all.",
    ],
)
def test_writes_no_sentence_that_is_cut_or_of_a_table_or_heading(junk):
    assert all_sentences(f"{junk} You can order spare filters from your dealer.") <= {
        "You can order spare filters from your dealer."
    }


def test_a_bullet_of_a_symbol_font_is_no_part_of_a_sentence():
    assert all_sentences("\uf0b7 Sales of pumps grew in the north.\n\uf0b7 Sales of valves fell in the south.") == {
        "Sales of pumps grew in the north.",
        "Sales of valves fell in the south.",
    }


def test_short_lines_are_no_part_of_the_sentences_around_them():
    text = (
        "Borealis Heat 2024\nAnnual report\nThe company opened three new plants in the north of the country, one of\n"
        "them for pumps.\n17\nOutlook\nThe board expects that sales of pumps will grow in the coming year.\n"
    )
    assert all_sentences(text) == {
        "The company opened three new plants in the north of the country, one of them for pumps.",
        "The board expects that sales of pumps will grow in the coming year.",
    }


def test_a_dot_of_an_abbreviation_ends_no_sentence():
    text = "Dr. Lee joined Acme Corp. in March as head of pumps. He had led the plant of Borealis Inc. for nine years."
    others = ("The pumps of Acme Corp. are made in Oslo.", "We bought Borealis Inc. and sold it.")
    assert all_sentences(text, others) == {
        "Dr. Lee joined Acme Corp. in March as head of pumps.",
        "He had led the plant of Borealis Inc. for nine years.",
    }


def test_what_stands_in_many_texts_is_no_query():
    footer = "This document is the property of Borealis Heat and must not be copied."
    texts = [f"{report(i)} {footer}" for i in range(9)]
    writer = OfflineQuestionWriter.for_corpus(texts, kinds=("sentence",))
    assert not any(footer in writer.questions(text, 20) for text in texts)


def test_keywords_are_whole_phrases_near_each_other_that_keep_names():
    text = f"{MANUAL} The shares are listed at the New York Wool Exchange for the sake of the dealers."
    texts = [
        text,
        *map(report, range(30)),
        "A new wool of it.",
        "We exchange it.",
        "It is wool at an exchange.",
        "New to York.",
    ]
    queries = OfflineQuestionWriter.for_corpus(texts, kinds=("keywords",)).questions(text, 30)
    asked = " ".join(query for query in queries if not query.endswith("."))
    assert "New York Wool Exchange" in asked
    assert asked.lower().count("york") == asked.count("New York Wool Exchange")
    assert not re.search(r"\b(the|of|and|is|to|[\d.])\b", asked)


def test_words_that_a_pdf_reader_ran_together_are_in_no_query():
    texts = [report(i) for i in range(60)]
    texts[0] = texts[0].replace("the supply of ", "thesupply of ").replace("stock of ", "stockof ")
    writer = OfflineQuestionWriter.for_corpus(texts)
    assert not re.search(r"thesupply|stockof", " ".join(writer.questions(texts[0], 20)))


def test_no_query_is_longer_than_24_words_or_comes_twice(corpus, writer):
    for text in corpus:
        queries = writer.questions(text, 20)
        assert max(len(query.split()) for query in queries) <= 24
        assert len({query.casefold() for query in queries}) == len(queries)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400), st.integers(1, 6))
def test_any_text_gives_clean_lines_and_never_too_many(text, number):
    answer = OfflineQuestionWriter().complete(render_prompt(EXAM_PROMPT_TMPL, text, number)).text
    assert answer and len(answer.splitlines()) <= number
    assert all(line.strip() for line in answer.splitlines())


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_prompt_can_be_read(prompt):
    text, number = read_prompt(prompt)
    assert text in prompt and 1 <= number <= 100


def test_real_questions_set_the_share_of_keywords_and_the_lengths(corpus):
    def written(examples):
        writer = OfflineQuestionWriter.for_corpus(corpus, examples=examples)
        return [query for text in corpus for query in writer.questions(text, 2)]

    short = written(("filter price", "spare pump Oslo", "warehouse lease", "turbine sales"))
    full = written(("What does the filter of the machine cost?", "How do I lease a warehouse in Oslo for a year?"))
    assert all(len(query.split()) <= 3 for query in short if not query.endswith("."))
    assert sum(query.endswith(".") for query in short) < 0.2 * len(short)
    assert sum(query.endswith(".") for query in full) > 0.9 * len(full)
    assert max(len(query.split()) for query in full[-2:]) <= 12  # the manual has sentences of all lengths


def test_a_title_without_a_dot_is_no_part_of_the_sentence_after_it(corpus):
    text = (
        "Your Choices We keep the gaskets for nine years. Sales of Pumps and Valves If you return a pump, we repair it."
    )
    assert all_sentences(text, tuple(corpus)) == {
        "We keep the gaskets for nine years.",
        "If you return a pump, we repair it.",
    }


def test_german_words_with_a_capital_within_sentences_are_no_beginning_of_one():
    text = (
        "Die Filter der Maschine sollten Sie jedes Jahr wechseln. Den Händlern nennen Sie bitte die Nummer der Pumpe."
    )
    assert all_sentences(text) == set(re.split(r"(?<=\.)\s", text))


def test_words_that_occur_everywhere_but_never_come_in_bursts_are_no_keywords():
    rng = random.Random(1)
    terms = sorted({"".join(rng.choices("bdfgklmnprst", k=4)) + rng.choice("aeiou") + "x" for _ in range(250)})
    dull = ["alsoly", "providesome", "variously"]
    texts = []
    for _ in range(300):
        topics = rng.sample(terms, 8)
        texts.append(
            " ".join(f"The {a} {rng.choice(['in', *dull])} the {b} of the {a}." for a in topics[:4] for b in topics[4:])
        )
    texts = [re.sub(rf"({'|'.join(dull)})(?=.*\1)", "in", text) for text in texts]  # once a text
    writer = OfflineQuestionWriter.for_corpus(texts, kinds=("keywords",))
    queries = [query for text in texts for query in writer.questions(text, 2) if not query.endswith(".")]
    assert queries and not any(word in query.split() for query in queries for word in dull)
