"""Replies of every shape, and the questions in them."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbutils.questions.parse import parse_questions

Q1, Q2, Q3 = "What was Lyft's revenue in 2021?", "2023 revenue by segment", "How many drivers were active?"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (f"{Q1}\n{Q2}", [Q1, Q2]),
        (f"1. {Q1}\n2. {Q2}", [Q1, Q2]),
        (f"1) {Q1}\n2) {Q2}", [Q1, Q2]),
        (f"(1) {Q1}\n(2) {Q2}", [Q1, Q2]),
        (f"1 - {Q1}\n2 - {Q2}", [Q1, Q2]),
        (f"1: {Q1}\n2: {Q2}", [Q1, Q2]),
        (f"a) {Q1}\nb) {Q2}", [Q1, Q2]),
        (f"- {Q1}\n- {Q2}", [Q1, Q2]),
        (f"* {Q1}\n* {Q2}", [Q1, Q2]),
        (f"• {Q1}\n• {Q2}", [Q1, Q2]),
        (f"– {Q1}\n– {Q2}", [Q1, Q2]),
        (f"> {Q1}\n> {Q2}", [Q1, Q2]),
        (f"- 1. {Q1}\n- 2. {Q2}", [Q1, Q2]),
        (f"Q1: {Q1}\nQ2: {Q2}", [Q1, Q2]),
        (f"Q: {Q1}\nQ: {Q2}", [Q1, Q2]),
        (f"Question 1: {Q1}\n\nQuestion 2: {Q2}", [Q1, Q2]),
        (f"Question #1 - {Q1}\nQuestion #2 - {Q2}", [Q1, Q2]),
        (f"**Question 1:** {Q1}\n**Question 2:** {Q2}", [Q1, Q2]),
        (f"**Question 1**\n{Q1}\n\n**Question 2**\n{Q2}", [Q1, Q2]),
        (f"### Question 1\n{Q1}\n### Question 2\n{Q2}", [Q1, Q2]),
        (f"1.\n{Q1}\n2.\n{Q2}", [Q1, Q2]),
        (f"**1. {Q1}**\n**2. {Q2}**", [Q1, Q2]),
        (f"1. **{Q1}**\n2. **{Q2}**", [Q1, Q2]),
        (f"**1.** {Q1}\n**2.** {Q2}", [Q1, Q2]),
        (f"**{Q1}**\n**{Q2}**", [Q1, Q2]),
        (f"__{Q1}__\n*{Q2}*", [Q1, Q2]),
        (f'"{Q1}"\n"{Q2}"', [Q1, Q2]),
        (f'1. "{Q1}"\n2. "{Q2}"', [Q1, Q2]),
        (f"1. “{Q1}”\n2. „{Q2}“", [Q1, Q2]),
        (f"1. «{Q1}»\n2. `{Q2}`", [Q1, Q2]),
        (f"Keywords: {Q2}\nPlain question: {Q1}", [Q2, Q1]),
        (f"1. (Keywords) {Q2}\n2. {Q1}", [Q2, Q1]),
        (f"1. [Keywords] {Q2}\n2. [Plain question] {Q1}", [Q2, Q1]),
        (f"1. {Q2} (keywords)\n2. {Q1} *(a plain question)*", [Q2, Q1]),
        (f"1. **Keywords**: {Q2}\n2. *Paraphrase*: {Q1}", [Q2, Q1]),
        (f"1. A few search keywords, not a sentence: {Q2}\n2. A plain question in everyday words:\n   {Q1}", [Q2, Q1]),
        (f"1. **Keywords**\n   - {Q2}\n2. **Plain question**\n   - {Q1}", [Q2, Q1]),
        (f"**1. Keywords**\n{Q2}\n\n**2. Plain question**\n{Q1}", [Q2, Q1]),
        (f"Question 1 (short keywords): {Q2}\nQuestion 2 (plain): {Q1}", [Q2, Q1]),
        (f"Keyword query: {Q2}\nNatural language question: {Q1}", [Q2, Q1]),
        (f"Stichwörter: {Q2}\nFrage: {Q1}", [Q2, Q1]),
        (f"Mots-clés : {Q2}\nQuestion : {Q1}", [Q2, Q1]),
        (f"1.{Q1}\n2.{Q3}", [Q1, Q3]),
        (f"1){Q1}\n2){Q3}", [Q1, Q3]),
        (f"1.) {Q1}\n2.) {Q2}", [Q1, Q2]),
        (f"1\\. {Q1}\n2\\. {Q2}", [Q1, Q2]),
        (f"1\ufe0f\u20e3 {Q1}\n2\ufe0f\u20e3 {Q2}", [Q1, Q2]),
        (f"#1: {Q1}\n#2: {Q2}", [Q1, Q2]),
        (f"A. {Q1}\nB. {Q2}", [Q1, Q2]),
        (f"0. {Q1}\n1. {Q2}", [Q1, Q2]),
        (f"**Q1**: {Q1}\n**Q2**: {Q2}", [Q1, Q2]),
        (f"[Q1] {Q1}\n[Q2] {Q2}", [Q1, Q2]),
        (f"First question: {Q1}\nSecond question: {Q2}", [Q1, Q2]),
        (f"## Questions\n{Q1}\n{Q2}", [Q1, Q2]),
        (f"**Search queries**\n\n{Q1}\n{Q2}", [Q1, Q2]),
        (f"- [ ] {Q1}\n- [ ] {Q2}", [Q1, Q2]),
        (f"-{Q1}\n-{Q3}", [Q1, Q3]),
        (f"❓ {Q1}\n❓ {Q2}", [Q1, Q2]),
        (f"<questions>\n<q>{Q1}</q>\n<q>{Q2}</q>\n</questions>", [Q1, Q2]),
        (f"<|channel|>analysis<|message|>Two.<|end|><|channel|>final<|message|>1. {Q1}\n2. {Q2}<|return|>", [Q1, Q2]),
        (f"<reasoning>\nAsk of revenue.\n</reasoning>\n{Q1}\n{Q2}", [Q1, Q2]),
        (f"Q1: {Q1} Q2: {Q3}", [Q1, Q3]),
        (f"1. {Q1}<br>2. {Q2}", [Q1, Q2]),
        (f"1. {Q1}\\n2. {Q2}", [Q1, Q2]),
        ('1. Why "Prime Time"?\n2. "Lyft" vs "Uber"', ['Why "Prime Time"?', '"Lyft" vs "Uber"']),
        (f"1. {Q1} 2. {Q2}", [Q1, Q2]),
        (f"```\n1. {Q1}\n2. {Q2}\n```", [Q1, Q2]),
        (f"```text\n{Q1}\n{Q2}\n```", [Q1, Q2]),
        (f"Here you go:\n```markdown\n- {Q1}\n- {Q2}\n```\nLet me know if you need more.", [Q1, Q2]),
        (f"<think>\n1. Maybe ask this?\n</think>\n1. {Q1}\n2. {Q2}", [Q1, Q2]),
        (f"1. Maybe ask this?\n</think>\n\n1. {Q1}\n2. {Q2}", [Q1, Q2]),
        (f"1. {Q1}\r\n2. {Q2}\r\n", [Q1, Q2]),
        (f"\ufeff1. {Q1}\n\n\n2. {Q2}", [Q1, Q2]),
        # several lines a question
        ("1. What was the revenue\n   of Lyft in 2021?\n2. How many drivers\nwere active?", None),
        ("- What was the revenue\n  of Lyft in 2021?\n- How many drivers\n  were active?", None),
        # chatter
        (f"Here are two questions:\n1. {Q1}\n2. {Q2}", [Q1, Q2]),
        (f"Here are two questions based on the context:\n\n{Q1}\n{Q2}", [Q1, Q2]),
        (f"Sure! Here are the questions you asked for.\n\n{Q1}\n{Q2}\n\nI hope these help!", [Q1, Q2]),
        (f"Certainly!\n{Q1}\n{Q2}\nWould you like me to write more questions?", [Q1, Q2]),
        (f"1. {Q1}\n2. {Q2}\n\nThese questions cover revenue and drivers.", [Q1, Q2]),
        (f"1. {Q1}\n2. {Q2}\nNote: both can be answered from the text.", [Q1, Q2]),
        (f"Q: {Q1}\nA: It was 3.2 billion.\nQ: {Q2}\nA: See above.", [Q1, Q2]),
        (f"1. {Q1}\n   Answer: 3.2 billion\n2. {Q2}\n   Answer: none", [Q1, Q2]),
        (f"1. {Q1}\n   - a specific figure\n2. {Q2}\n   - keywords", [Q1, Q2]),
        (f"**Keywords**\n- {Q2}\n\n**Plain question**\n- {Q1}", [Q2, Q1]),
        (f"1. {Q1}\n   a) 3.2\n   b) 4.1\n2. {Q3}\n   a) many\n   b) few", [Q1, Q3]),
        (f"1. {Q1}\n   Rationale: a figure.\n2. {Q2}\n   (This is a keyword query.)", [Q1, Q2]),
        (f"1. {Q1} (Answer: 3.2 billion)\n2. {Q3} (Answer: few)", [Q1, Q3]),
        (f"Questions:\n1. {Q1}\n\nAnswers:\n1. 3.2 billion", [Q1]),
        (f"Question 1:\n\n{Q1}\n\nAnswer:\n\n3.2 billion.\n\nQuestion 2:\n\n{Q2}\n\nAnswer:\n\nSee above.", [Q1, Q2]),
        (f"{Q2}\n\nBoth queries are self-contained and in English.", [Q2]),
        (f"{Q2}\n\nI kept the queries short, as asked.", [Q2]),
        (f"{Q1}\n\nMöchten Sie weitere Fragen?", [Q1]),
        (f"Hier sind zwei Fragen:\n1. {Q1}\n2. {Q2}", [Q1, Q2]),
        (f"Voici deux questions :\n{Q1}\n{Q2}", [Q1, Q2]),
        (f"以下是两个问题：\n{Q1}\n{Q2}", [Q1, Q2]),
        # JSON
        (json.dumps([Q1, Q2]), [Q1, Q2]),
        (json.dumps({"questions": [Q1, Q2]}), [Q1, Q2]),
        (json.dumps({"Questions": [{"question": Q1, "answer": "x"}, {"question": Q2, "answer": "y"}]}), [Q1, Q2]),
        (json.dumps([{"id": 1, "query": Q1, "style": "plain"}, {"id": 2, "query": Q2}], indent=2), [Q1, Q2]),
        (json.dumps({"1": Q1, "2": Q2}), [Q1, Q2]),
        (json.dumps({"question_1": Q1, "answer_1": "x", "question_2": Q2, "answer_2": "y"}), [Q1, Q2]),
        (f"```json\n{json.dumps([Q1, Q2], indent=1)}\n```", [Q1, Q2]),
        (f"Sure, here is the JSON:\n{json.dumps([Q1, Q2])}\nAnything else?", [Q1, Q2]),
        (f'{{"question": "{Q1}"}}\n{{"question": "{Q2}"}}', [Q1, Q2]),
        (json.dumps({"summary": "Of Lyft.", "keywords": ["x"], "questions": [Q1, Q2]}), [Q1, Q2]),
        (json.dumps([{"frage": Q1, "antwort": "x"}, {"frage": Q2, "antwort": "y"}]), [Q1, Q2]),
        (json.dumps([{"style": "search keywords", "value": Q2}, {"style": "plain question", "value": Q1}]), [Q2, Q1]),
        (json.dumps([f"1. {Q1}", f"2. {Q2}"]), [Q1, Q2]),
        (str([Q1.replace("'", ""), Q2]), [Q1.replace("'", ""), Q2]),
        (f'questions = [\n  "{Q1}",\n  "{Q2}",\n]', [Q1, Q2]),
        ('{"queries": ["what is "Prime Time" at Lyft", "lyft fees"]}', ['what is "Prime Time" at Lyft', "lyft fees"]),
        (f'["{Q1}", "{Q2}", "How many dri', [Q1, Q2]),
        (f'{{"questions": [\n  "{Q1}",\n  "{Q2}",\n]}}', [Q1, Q2]),
        # other scripts
        ("1. 公司2023年的收入是多少？\n2. 谁是首席执行官？", ["公司2023年的收入是多少？", "谁是首席执行官？"]),
        ("1、公司的收入是多少？\n2、谁是首席执行官？", ["公司的收入是多少？", "谁是首席执行官？"]),
        ("１．売上高はいくらですか？\n２．社長は誰ですか？", ["売上高はいくらですか？", "社長は誰ですか？"]),
        ("问题1：公司的收入是多少？\n问题2：谁是首席执行官？", ["公司的收入是多少？", "谁是首席执行官？"]),
        ("١. ما هي إيرادات الشركة؟\n٢. من هو الرئيس؟", ["ما هي إيرادات الشركة؟", "من هو الرئيس؟"]),
        ("1. Какова выручка компании?\n2. Кто директор?", ["Какова выручка компании?", "Кто директор?"]),
        ("प्रश्न 1: आय कितनी थी?\nप्रश्न 2: निदेशक कौन है?", ["आय कितनी थी?", "निदेशक कौन है?"]),
        ("Frage 1: Wie hoch ist der Umsatz?\nFrage 2: Wer?", ["Wie hoch ist der Umsatz?", "Wer?"]),
        ("¿Cuál fue el ingreso?\n¿Quién dirige la empresa?", ["¿Cuál fue el ingreso?", "¿Quién dirige la empresa?"]),
    ],
)  # fmt: skip
def test_known_shapes(reply, expected):
    expected = expected or ["What was the revenue of Lyft in 2021?", "How many drivers were active?"]
    assert parse_questions(reply, 2) == expected


@pytest.mark.parametrize(
    "question",
    [
        "2023 revenue by segment",
        "10-K risk factors for ride sharing",
        "3.5% notes due 2025",
        "401(k) match for new employees",
        "1.5 billion revolving credit facility",
        "5G rollout capital spending",
        "1099 forms for drivers",
        "7 largest shareholders",
        "2021 vs. 2020 net loss: why did it shrink?",
        "Q4 2021 active riders",
        "Item 7 management discussion",
        "A-shares and B-shares voting rights",
        "Here Technologies licence agreement",
        "What is 3) in the list of covenants?",
        "Do you need a licence to drive for Lyft?",
        "Can I cancel a ride?",
        "Is Lyft's 'Wait & Save' cheaper?",
        'What does "Level 3" mean for fair values?',
        "C++ developers employed",
        "E. coli outbreak response",
        "I. G. Farben successor companies",
        "the following distance rule for trucks",
        "12. Februar 2021 Bilanz",
        "Umsatz im 2. Quartal",
        "c) clause meaning",
        "a) or b) preferred shares",
        "2 - 3 year outlook",
        "__init__ method",
        "1 bedroom rent in Boston",
        "E. coli outbreak",
        "Let's Encrypt certificate renewal",
        "I have a flat tire, what now",
        "i'm a driver how do i get a 1099",
        "Sure Start programme cost",
        "ecco shoes revenue",
        "claro colombia suscriptores",
        "Explain how revenue is recognised.",
        "As a teacher, how would you explain goodwill?",
        "Which of the following are questions of law?",
        "Do you need more than one licence?",
        'How to write {"a": 1} in YAML?',
        "Note 12: what leases does Uber have?",
        "Level 1: what assets are held?",
        "Source: where does revenue come from?",
        "Why: did costs rise?",
        "Uber: how many drivers?",
        "natural language search queries",
        "Item 1A: which risks are named?",
    ],
)
def test_what_belongs_to_a_question_stays(question):
    assert parse_questions(question, 2) == [question]
    assert parse_questions(f"{Q3}\n{question}", 2) == [Q3, question]
    assert parse_questions(f"1. {question}\n2. {Q3}", 2) == [question, Q3]
    assert parse_questions(f"- {question}\n- {Q3}", 2) == [question, Q3]
    assert parse_questions(json.dumps([question, Q3]), 2) == [question, Q3]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n\t ",
        "NONE",
        "None.",
        "N/A",
        "**NONE**",
        "1. NONE",
        "```\n```",
        "[]",
        "{}",
        '{"questions": []}',
        "I'm sorry, but I cannot help with that.",
        "I cannot write questions about a table of contents.",
        "As an AI language model, I have no opinion.",
        "Sure! Here are two questions:",
        "Here are two questions based on the passage:",
        "Unfortunately the passage holds nothing to ask about.",
        "NONE. The passage is a table of contents.",
        "The passage is a table of contents, so no one would search for it.",
        "There is nothing to ask.",
        "Could you please provide the passage?",
        "No search queries can be made for this passage.",
        "Es gibt keine passenden Fragen.",
        "无",
        "null",
        "---",
        "1.\n2.",
        f"| # | Style | Query |\n|---|---|---|\n| 1 | keywords | {Q2} |\n| 2 | plain | {Q1} |",  # tables are not read
    ],
)
def test_a_reply_without_a_question_gives_none(reply):
    assert parse_questions(reply, 2) == []


OPENERS = [
    "What is",
    "How did",
    "Why does",
    "Which of",
    "When was",
    "2023",
    "revenue of",
    "Wie hoch war",
    "Quelle est",
    "何",
]
words = st.text(st.characters(categories=["Ll"]), min_size=2, max_size=9)
plain_questions = st.builds(
    lambda opener, rest, end: f"{opener} {' '.join(rest)}{end}",
    st.sampled_from(OPENERS),
    st.lists(words, min_size=2, max_size=12),
    st.sampled_from(["?", "？"]),
)
MARKS = [
    lambda i, q: f"{i}. {q}", lambda i, q: f"{i}) {q}", lambda i, q: f"({i}) {q}", lambda i, q: f"- {q}",
    lambda i, q: f"* {q}", lambda i, q: f"• {q}", lambda i, q: f"Q{i}: {q}", lambda i, q: f"Question {i}: {q}",
    lambda i, q: f"**{i}.** {q}", lambda i, q: f"**{i}. {q}**", lambda i, q: f"{i}. **{q}**",
    lambda i, q: f'{i}. "{q}"',
    lambda i, q: f"**Q{i}:** {q}", lambda i, q: f"  {i}.  {q}  ", lambda i, q: q, lambda i, q: f"**{q}**",
    lambda i, q: f"{i}.) {q}", lambda i, q: f"**Q{i}**: {q}", lambda i, q: f"[Q{i}] {q}", lambda i, q: f"#### {i}. {q}", lambda i, q: f"{i}.\n{q}",
]  # fmt: skip
PREAMBLES = [
    "", "Here are the questions:\n", "Sure! Here you go:\n\n", "Certainly, here are some queries.\n\n",
    "Based on the passage, people may ask:\n", "Natürlich! Hier sind die Fragen:\n", "Voici les questions :\n\n",
    "Of course!\n\n", "以下是问题：\n",
]  # fmt: skip
CLOSINGS = [
    "", "\n\nLet me know if you need more!", "\n\nI hope this helps.", "\n\nThese questions cover the main points.",
    "\n\nWould you like more questions?", "\n\nNote: all can be answered from the text.",
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    st.lists(plain_questions, min_size=1, max_size=6, unique=True),
    st.sampled_from(MARKS),
    st.sampled_from(PREAMBLES),
    st.sampled_from(CLOSINGS),
    st.sampled_from(["\n", "\n\n"]),
    st.integers(1, 8),
)
def test_any_decoration_gives_the_questions_back(questions, mark, preamble, closing, between, limit):
    reply = preamble + between.join(mark(i, q) for i, q in enumerate(questions, 1)) + closing
    assert parse_questions(reply, limit) == questions[:limit]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.lists(plain_questions, min_size=1, max_size=5),
    st.sampled_from(
        [
            lambda qs: qs,
            lambda qs: {"questions": qs},
            lambda qs: [{"question": q} for q in qs],
            lambda qs: {"queries": [{"style": "keywords", "query": q} for q in qs]},
            lambda qs: {f"q{i}": q for i, q in enumerate(qs, 1)},
        ]
    ),
    st.booleans(),
    st.sampled_from([None, 2]),
    st.sampled_from(["{}", "```json\n{}\n```", "Here it is:\n\n{}\n\nDone."]),
)
def test_json_gives_the_questions_back(questions, shape, ascii_only, indent, around):
    body = json.dumps(shape(questions), ensure_ascii=ascii_only, indent=indent)
    assert parse_questions(around.replace("{}", body), 10) == questions


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.text(max_size=300), st.integers(0, 5))
@example("[" * 3000, 2)
@example('{"a":' * 3000, 2)
@example("```json\n[1, null, {}]", 2)
@example('"' * 50, 2)
@example("**" * 40 + "\n" + "1. " * 40, 2)
@example("\ud800 lone surrogate?", 2)
def test_any_text_is_survived(reply, limit):
    found = parse_questions(reply, limit)
    assert len(found) <= limit
    for question in found:
        assert question == " ".join(question.split())
        assert any(character.isalnum() for character in question)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(plain_questions, min_size=1, max_size=4))
def test_parsing_what_was_parsed_changes_nothing(questions):
    once = parse_questions("\n".join(f"{i}. {q}" for i, q in enumerate(questions, 1)), 10)
    assert parse_questions("\n".join(once), 10) == once
