"""The question writer that needs no LLM."""

import json
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.questions.offline import OfflineQuestionWriter, guess_language, read_prompt
from nbutils.questions.prompts import DEFAULT_QA_GENERATE_PROMPT_TMPL, EXAM_PROMPT_TMPL, render_prompt

SUBJECTS = ["pumps", "valves", "turbines", "filters", "sensors", "boilers", "meters", "gaskets", "blowers", "chillers"]
PLACES = ["Oslo", "Lisbon", "Krakow", "Ghent", "Turin", "Malmo", "Porto", "Lyon", "Graz", "Cork"]

ANNUAL = """Revenue increased $12.4 million, or 8%, in 2022 as compared to 2021, primarily due to higher demand for heat
pumps. We expect to invest in new production lines and to hire additional technicians. Our suppliers could fail to
deliver copper on time, which may adversely affect our gross margin. The Company recognizes revenue when control of the
goods passes to the customer. The board of directors has approved a share repurchase program of up to $5.0 million.
Total current assets 120,331 98,221 Inventories 33,870 28,402 Total current liabilities 61,001 57,555
“Change in Control” means the sale of more than half of the voting rights of Borealis Heat, Inc. to a third party.
"""
MANUAL = """To replace the filter, first unplug the machine and wait until the motor has stopped. Open the front cover
by pressing the two latches. If the indicator light blinks red, the tank is full and must be emptied. Do not use
solvents to clean the housing, because they may damage the plastic. The battery should be charged for at least four
hours before the first use. You can order spare filters from your dealer."""
GERMAN = """Die Gesellschaft hat im Geschäftsjahr 2022 einen Umsatz von 12,4 Mio. Euro erzielt, der um 8 % über dem
Vorjahr liegt. Der Anstieg ist vor allem auf die gestiegene Nachfrage nach Wärmepumpen und den Ausbau des Vertriebs in
Österreich zurückzuführen. Risiken ergeben sich aus der Abhängigkeit von einzelnen Lieferanten."""
FRENCH = """La société a réalisé en 2022 un chiffre d'affaires de 12,4 millions d'euros, en hausse de 8 % par rapport à
l'exercice précédent. Cette progression s'explique par la demande de pompes à chaleur et par l'extension du réseau de
distribution en Belgique. Le conseil d'administration propose de verser un dividende."""
SPANISH = """La empresa obtuvo en 2022 unos ingresos de 12,4 millones de euros, un 8 % más que en el ejercicio anterior.
El aumento se debe sobre todo a la demanda de bombas de calor y a la ampliación de la red de ventas en Portugal."""
FINNISH = """Yhtiön liikevaihto kasvoi vuonna 2022 kahdeksan prosenttia ja oli 12,4 miljoonaa euroa. Kasvu johtui
pääasiassa lämpöpumppujen kysynnästä sekä jakeluverkoston laajentamisesta Virossa. Hallitus ehdottaa osinkoa."""


def report(number: int) -> str:
    """One of many different chunks of a made annual report."""
    rng = random.Random(number)
    a, b = rng.sample(SUBJECTS, 2)
    place = rng.choice(PLACES)
    return (
        f"In 2021, sales of {a} in {place} increased {rng.randint(2, 30)}% because dealers ordered earlier. "
        f"Our plant in {place} could be closed if the supply of {b} is disrupted for several weeks. "
        f"We lease {rng.randint(2, 9)} warehouses near {place} under agreements that expire in 2026. "
        f"The Company measures its stock of {b} at the lower of cost and net realizable value. "
        f"Management believes that competition for {a} will remain strong, and that technicians train dealers."
    )


def long_chunk(number: int) -> str:
    return " ".join(report(100 * number + i) for i in range(11))  # about 1,024 tokens


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return [report(i) for i in range(60)] + [ANNUAL]


@pytest.fixture(scope="module")
def writer(corpus) -> OfflineQuestionWriter:
    return OfflineQuestionWriter.for_corpus(corpus)


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.mark.parametrize("template", [DEFAULT_QA_GENERATE_PROMPT_TMPL, EXAM_PROMPT_TMPL])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_answers_our_prompts_with_as_many_questions_as_asked_for(writer, template, number):
    answer = writer.complete(render_prompt(template, ANNUAL, number)).text
    assert answer.splitlines() == writer.questions(ANNUAL, number)
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
    text = " ".join(ANNUAL.split())
    assert read_prompt(prompt.replace("{}", text)) == (text, number)


def test_dashed_lines_and_numbers_in_the_text_do_not_confuse_it():
    text = "Notes\n-----\nWe answered 12 questions of 9 customers.\n-----\nEnd of the notes"
    assert read_prompt(render_prompt(EXAM_PROMPT_TMPL, text, 3)) == (text, 3)


def test_the_same_seed_gives_the_same_questions_in_any_order_and_thread(corpus):
    first = [OfflineQuestionWriter.for_corpus(corpus).questions(text, 3) for text in corpus]
    writer = OfflineQuestionWriter.for_corpus(corpus)
    assert [writer.questions(text, 3) for text in reversed(corpus)] == first[::-1]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: writer.questions(text, 3), corpus * 3)) == first * 3


def test_the_same_seed_gives_the_same_questions_in_another_process(corpus):
    code = (
        "import json, sys; from nbutils.questions.offline import OfflineQuestionWriter; corpus = json.load(sys.stdin); "
        "writer = OfflineQuestionWriter.for_corpus(corpus); print(json.dumps([writer.questions(t, 3) for t in corpus]))"
    )
    answers = [
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(corpus),
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert answers[0] == answers[1] and json.loads(answers[0])[0]


def test_another_seed_gives_other_questions_and_another_model_name(corpus):
    one, two = (OfflineQuestionWriter.for_corpus(corpus, seed=seed) for seed in (0, 1))
    assert one.metadata.model_name == "offline-4" != two.metadata.model_name
    assert sum(one.questions(text) != two.questions(text) for text in corpus) > 0.9 * len(corpus)


def test_fewer_questions_are_the_first_of_more(writer):
    assert writer.questions(ANNUAL, 6)[:2] == writer.questions(ANNUAL, 2)


def test_fit_of_a_copy_leaves_the_original_alone(corpus):
    writer = OfflineQuestionWriter()
    before = writer.questions(report(3))
    fitted = writer.model_copy().fit(corpus)
    assert writer.questions(report(3)) == before
    assert fitted.questions(report(3)) == OfflineQuestionWriter.for_corpus(corpus).questions(report(3))


def test_streams_the_same_answer(writer):
    prompt = render_prompt(EXAM_PROMPT_TMPL, ANNUAL, 3)
    pieces = list(writer.stream_complete(prompt))
    assert "".join(piece.delta for piece in pieces) == pieces[-1].text == writer.complete(prompt).text


def test_takes_llamaindex_nodes():
    from llama_index.core.schema import TextNode

    nodes = [TextNode(text=report(i), metadata={"file_name": "a.pdf"}) for i in range(5)]
    assert OfflineQuestionWriter.for_corpus(nodes).questions(report(1)) == OfflineQuestionWriter.for_corpus(
        [report(i) for i in range(5)]
    ).questions(report(1))


@pytest.mark.parametrize(
    "text, language",
    [(ANNUAL, "en"), (MANUAL, "en"), (GERMAN, "de"), (FRENCH, "fr"), (SPANISH, "es"), (FINNISH, "")],
)
def test_guesses_the_language(text, language):
    assert guess_language(words(text)) == language


@pytest.mark.parametrize(
    "text, opening",
    [
        (GERMAN, r"\b(was|welche|wo|wie|warum|zu)\b"),
        (FRENCH, r"\b(quel|quelles|que|comment|pourquoi)\b"),
        (SPANISH, r"¿"),
    ],
)
def test_asks_in_the_language_of_the_text(text, opening):
    questions = OfflineQuestionWriter().questions(text, 6)
    asked = [question for question in questions if question.endswith("?")]
    assert len(asked) >= 2 and all(re.search(opening, question.lower()) for question in asked)
    assert not any(re.search(r"\b(what|how|the|does)\b", question.lower()) for question in questions)


def test_an_unknown_language_gets_the_words_of_the_text():
    questions = OfflineQuestionWriter().questions(FINNISH, 3)
    assert len(questions) == 3
    assert set(words(" ".join(questions))) <= set(words(FINNISH))


def test_a_text_that_is_no_business_is_not_asked_about_a_company():
    asked = " ".join(" ".join(OfflineQuestionWriter(seed=seed).questions(MANUAL, 4)) for seed in range(20))
    assert "compan" not in asked and "{" not in asked


def test_asks_what_analysts_ask_in_words_that_the_text_lacks(writer):
    seeds = [writer.model_copy(update={"seed": seed}) for seed in range(300)]
    asked = [question for seeded in seeds for question in seeded.questions(ANNUAL, 4)]
    text = " ".join(asked).lower()
    for expected in ("working capital", "quick ratio", "buyback"):
        assert expected in text and expected not in ANNUAL.lower()
    for form in (r"what drove|why did|main reasons", r"how (could|might|can)", r"meant by|defin|counts as"):
        assert re.search(form, text)


def test_names_the_company_and_the_year():
    texts = [f"{ANNUAL} {report(i)} Borealis Heat, Inc. was founded in 1990." for i in range(9)]
    writer = OfflineQuestionWriter.for_corpus(texts)
    asked = [question for text in texts for question in writer.questions(text, 4)]
    assert sum("Borealis Heat" in question for question in asked) > len(asked) / 5
    assert any(re.search(r"\b20[12]\d", question) for question in asked)
    assert not any(re.search(r"\b(our|we|us)\b", question.lower()) for question in asked)


def test_every_filing_of_a_corpus_keeps_its_own_company():
    def filing(name: str, first: int) -> list[str]:
        cover = f"Annual report. Commission file number 001-38846 {name} (Exact name of registrant as specified)"
        return [cover, *(f"{report(i)} We bought goods from Acme Supplies, Inc." for i in range(first, first + 8))]

    heat, wind = filing("BOREALIS HEAT CORPORATION", 0), filing("Zephyr.com, Inc.", 20)
    writer = OfflineQuestionWriter.for_corpus(heat + wind)
    seeds = [writer.model_copy(update={"seed": seed}) for seed in range(10)]
    for texts, name, other in ((heat, "Borealis Heat", "Zephyr"), (wind, "Zephyr.com", "Borealis")):
        asked = str([seeded.questions(text, 4) for seeded in seeds for text in texts[1:]])
        assert name in asked and other not in asked and "38846" not in asked


def test_copies_no_sentence_and_adds_words_of_its_own(corpus, writer):
    borrowed = []
    for text in corpus:
        source = f" {' '.join(words(text))} "
        for question in writer.questions(text, 3):
            asked = words(question)
            assert not any(f" {' '.join(asked[i : i + 12])} " in source for i in range(len(asked) - 11))
            pairs = [f" {a} {b} " in source for a, b in pairwise(asked)]
            borrowed.append(sum(pairs) / max(len(pairs), 1))
    assert sum(borrowed) / len(borrowed) < 0.6


@pytest.mark.parametrize(
    ("sentence", "never"),
    [
        ("We have also experienced attacks on our systems in several countries during the year.", r"have also"),
        ("We have a 90-day return policy for electronic goods bought in our warehouses.", r"a 90\?"),
        ("We may not be successful in overcoming, and our business could suffer for years.", r"overcoming\?"),
    ],
)
def test_a_question_does_not_end_where_the_sentence_was_cut(writer, sentence, never):
    asked = [question for n in range(20) for question in writer.questions(f"{sentence} Note {n} tells more.", 4)]
    assert len(asked) > 40 and not any(re.search(never, question) for question in asked)


def test_words_that_a_pdf_reader_ran_together_are_parted():
    texts = [report(i).replace(". ", ".") for i in range(60)]
    joined = texts[0].replace("the supply of ", "thesupply of ").replace("stock of ", "stockof ")
    writer = OfflineQuestionWriter.for_corpus([joined, *texts[1:]])
    assert joined.count("thesupply") == joined.count("stockof") == 1
    asked = [writer.model_copy(update={"seed": seed}).questions(joined, 4) for seed in range(50)]
    assert not re.search(r"\w\.[A-Z]|thesupply|stockof", str(asked))
    assert re.search("supply|stock", str(asked))


def test_writes_at_least_a_hundred_long_chunks_a_second():
    texts = [long_chunk(i) for i in range(60)]
    writer = OfflineQuestionWriter.for_corpus(texts)
    rates = []
    for _ in range(3):  # the best of three: other work on the machine is not the writer's
        start = time.process_time()
        for text in texts:
            writer.complete(render_prompt(DEFAULT_QA_GENERATE_PROMPT_TMPL, text, 2))
        rates.append(len(texts) / (time.process_time() - start))
    assert max(rates) > 100, rates


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400), st.integers(1, 6))
def test_any_text_gives_clean_lines_and_never_too_many(text, number):
    prompt = render_prompt(EXAM_PROMPT_TMPL, text, number)
    answer = OfflineQuestionWriter().complete(prompt).text
    lines = answer.splitlines()
    assert answer and len(lines) <= number
    assert all(line.strip() for line in lines)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_prompt_can_be_read(prompt):
    text, number = read_prompt(prompt)
    assert text in prompt and 1 <= number <= 100


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([*(ANNUAL + MANUAL).split(), "(", "$12", "•", "—", "’"]), min_size=25, max_size=120),
    st.integers(0, 3),
)
def test_shuffled_prose_always_gets_its_questions(tokens, seed):
    text = " ".join(tokens)
    questions = OfflineQuestionWriter(seed=seed).questions(text, 2)
    if len({word for word in words(text) if len(word) > 5}) >= 8:
        assert len(questions) == 2
    assert len(set(questions)) == len(questions)
    assert not any("{" in question or "  " in question for question in questions)


def test_the_lexicon_is_consistent():
    from importlib import resources

    raw = json.loads(resources.files("nbutils.questions").joinpath("lexicon.json").read_text(encoding="utf-8"))
    known = {"co", "co_s", "name", "per", "fy", "fy0"}
    for cues, questions in raw["topics"]:
        assert all(re.compile(cue) and cue == cue.lower() for cue in cues)
        assert all(set(re.findall(r"\{(\w+)\}", question)) <= known for question in questions)
    for frames in raw["frames"].values():
        for kind in frames.values():
            assert all(set(re.findall(r"\{(\w+)\}", frame)) <= known | set("abc") for frame in kind)
    assert all(len(line.split("|")) > 1 for line in raw["synonyms"])
