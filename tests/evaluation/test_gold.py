import json

import pytest
from llama_index.core.schema import TextNode

from nbutils.core import UserError
from nbutils.evaluation.gold import gold_questions, load_gold_questions


@pytest.fixture
def nodes():
    texts = [
        "Brackwater began in 1921 with one wooden steamer.",
        "Each crossing is weather-\nbound in winter; naïve crews suffer.",
        "The loan of $5.2 million falls due on 31 March 2027 and may be repaid earlier without penalty.",
    ]
    return [
        TextNode(id_=f"n{i}", text=text, metadata={"file_name": "report.pdf", "page": i + 1, "page_label": str(i + 1)})
        for i, text in enumerate(texts)
    ]


def gold_file(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_gold_questions_by_page_chunk_and_quote(tmp_path, nodes):
    path = gold_file(
        tmp_path / "gold.csv",
        "question,pages,quote,chunk\n"
        'When was it founded?,1;2,"in 1921 with",\n'
        'Why cancelled?,,"WEATHER-bound in winter; naive crews",\n'
        "Debt?,,,n2;n0\n"
        'Loan?,,"the loan of $5.2 million falls due on 31 March 2027 and may be repaid early without any penalty",\n',
    )
    dataset = load_gold_questions(path, nodes, by="page")
    assert list(dataset.relevant_docs.values()) == [["n0", "n1"], ["n1"], ["n2", "n0"], ["n2"]]
    assert next(iter(dataset.placed.values())) == "page"
    by_quote = load_gold_questions(path, nodes)
    assert by_quote.human and next(iter(by_quote.relevant_docs.values())) == ["n0"]
    assert by_quote.judged_by == "3 by quote, 1 by chunk"
    assert list(dataset.queries) == list(load_gold_questions(path, nodes).queries)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_gold_questions_from_json(tmp_path, nodes, suffix):
    rows = [{"question": "When?", "pages": [1, 3]}, {"question": "Why?", "page": 2, "document": "report.pdf"}]
    text = json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows))
    dataset = load_gold_questions(gold_file(tmp_path / f"g.{suffix}", text), nodes)
    assert list(dataset.relevant_docs.values()) == [["n0", "n2"], ["n1"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "question,pages\nWhen?,9\n",
            r"gold\.csv none of its 1 .*row 2: page 9 of report\.pdf has no chunk \(pages end at 3\)",
        ),
        ("question,pages\nOk?,1\nWhen?,\n", r"gold\.csv, row 3: no 'quote', 'pages' or 'chunk'"),
        ("question,pages\nWhen?,first\n", r"row 2: 'first' is no page number"),
        ("question,pages\nWhen?,5-3\n", r"row 2: '5-3' is no page number"),
        ("question,pages\n,3\n", r"row 2: the column 'question' is empty"),
        ("question,chunk\nWhen?,zzz\n", r"row 2: there is no chunk 'zzz'"),
        ("question,quote\nWhen?,never written anywhere at all\n", r"row 2: the quote .* stands nowhere"),
        ("question,pages,file\nWhen?,1,other.pdf\n", r"row 2: there is no document 'other\.pdf'"),
        ("question,pages\n", "holds no question"),
        ("question,quote\nWhen, in 1921?,one wooden steamer\n", r"row 2 has more cells than the header.*','"),
        ('question,pages\n"multi\nline",1\n"When?",77x\n', r"row 3: '77x' is no page"),
    ],
)
def test_a_gold_row_that_points_nowhere_names_file_and_row(tmp_path, nodes, text, message):
    with pytest.raises(UserError, match=message):
        load_gold_questions(gold_file(tmp_path / "gold.csv", text), nodes)


def test_gold_files_that_cannot_be_read(tmp_path, nodes):
    with pytest.raises(UserError, match=r"Cannot read .*none\.csv"):
        load_gold_questions(tmp_path / "none.csv", nodes)
    with pytest.raises(UserError, match=r"cannot be read as \.json"):
        load_gold_questions(gold_file(tmp_path / "g.json", "[{]"), nodes)
    with pytest.raises(UserError, match=r"g\.jsonl, row 3 is no JSON object"):
        load_gold_questions(gold_file(tmp_path / "g.jsonl", '{"question": "?", "page": 1}\n\n{oops\n'), nodes)
    with pytest.raises(UserError, match="use 'page' or 'quote'"):
        load_gold_questions(tmp_path / "none.csv", nodes, by="chapter")


@pytest.mark.parametrize(
    "data",
    [
        b"sep=;\nquestion;pages\nWas es kostet?;3\n",
        b"question;pages\nWas es kostet?;3\n;\n\n;\n",
        "question;pages;\r\nWas es kostet?;3;\r\n".encode("utf-16"),
        b"question\tpages\nWas es kostet?\t3\n",
        '\ufeffQuestion,Pages\n"Was es kostet?",3.0\n'.encode(),
        "question,pages\nW\u00e4hrung und Geb\u00fchren f\u00fcr gro\u00dfe F\u00e4hren?,2\u20133\n".encode("cp1252"),
    ],
)
def test_gold_questions_in_the_dialects_of_spreadsheets(tmp_path, nodes, data):
    (tmp_path / "dialect.csv").write_bytes(data)
    dataset = load_gold_questions(tmp_path / "dialect.csv", nodes)
    assert [chunks[-1] for chunks in dataset.relevant_docs.values()] == ["n2"]
    assert next(iter(dataset.queries.values())).startswith(("Was es", "W\u00e4hrung und"))


def test_ranges_of_pages_count_as_all_their_pages(tmp_path, nodes):
    dataset = load_gold_questions(gold_file(tmp_path / "g.csv", "question,pages\nWhen?,1 - 2;3\n"), nodes)
    assert list(dataset.relevant_docs.values()) == [["n0", "n1", "n2"]]


def test_questions_about_pages_that_are_not_here_are_left_out_and_said_so(tmp_path, nodes, capsys):
    text = "question,pages,file\nWhen?,1;9,\nWhy?,8,\nWho?,1,other.pdf\n"
    dataset = load_gold_questions(gold_file(tmp_path / "g.csv", text), nodes)
    assert list(dataset.relevant_docs.values()) == [["n0"]]
    assert [reason.partition(":")[0] for reason in dataset.left_out] == ["row 3", "row 4"]
    assert "2 of 3 gold questions are not about this corpus" in capsys.readouterr().out


def chunked(*texts, file="report.pdf"):
    return [
        TextNode(id_=f"{file}-{i}", text=text, metadata={"file_name": file, "page": 1}) for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("texts", "relevant"),
    [
        (["The ferry's first de-\nparture was in 1921 from Oslo.", "Rates rose."], [0]),
        (["The ferry\u2019s \ufb01rst departure  was in\n1921 from Oslo.", "Rates rose."], [0]),
        (["We tell how the ferry's first departure", "was in 1921 from Oslo. Then rates rose."], [0, 1]),
        (["We tell how the ferry's first departure was in 1921", "from Oslo. Then rates rose."], [0]),
        (["The", "ferry's first departure was in 1921 from Oslo.", "Rates rose."], [1]),
        (["The ferry's first departure (below) was in 1921 from Oslo.", "Rates rose."], [0]),
        (
            ["A ferry's first departure was in 1921 from Oslo.", "The ferry's first departure was in 1921 from Oslo."],
            [1],
        ),
    ],
)
def test_a_quote_is_found_across_hyphens_ligatures_and_borders(tmp_path, texts, relevant):
    nodes = chunked(*texts)
    text = 'question,quote\nWhen?,"the ferry\'s first departure was in 1921 from Oslo"\n'
    dataset = load_gold_questions(gold_file(tmp_path / "g.csv", text), nodes)
    assert list(dataset.relevant_docs.values()) == [[nodes[i].node_id for i in relevant]]


def test_gold_questions_found_beside_the_files_serve_only_the_document_that_holds_their_quotes(
    tmp_path, project, capsys
):
    from nbutils.corpus.chunks import load_corpus

    sample = project / "data" / "sample"
    brackwater, norvane = (load_corpus(sample / f"{name}_2024.pdf") for name in ("brackwater", "norvane"))
    both = gold_questions("auto", [str(sample)], [*brackwater, *norvane])
    assert len(both.queries) == 180 and both.judged_by == "180 by quote"
    assert {chunk for chunks in both.relevant_docs.values() for chunk in chunks} <= {n.node_id for n in brackwater}
    assert gold_questions("auto", [str(sample / "norvane_2024.pdf")], norvane) is None
    assert "gold_questions.csv, found beside the validation files, is not used" in capsys.readouterr().out
    assert gold_questions("", [str(sample)], norvane) is None


def test_gold_questions_without_quotes_found_beside_several_files_are_not_used(tmp_path, nodes, capsys):
    (tmp_path / "report.txt").write_text("one")
    gold_file(tmp_path / "gold_questions.csv", "question,pages\nWhen?,1\n")
    files = [str(tmp_path / "report.txt")]
    assert len(gold_questions("auto", files, nodes).queries) == 1
    (tmp_path / "other.txt").write_text("two")
    assert gold_questions("auto", files, nodes) is None
    assert "no column 'file'" in capsys.readouterr().out
    gold_file(tmp_path / "gold_questions.csv", "question,pages,file\nWhen?,1,report\nWhy?,1,other\n")
    assert len(gold_questions("auto", files, nodes).queries) == 1
