import json
import shutil

import pandas as pd
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
        ("question,quote\nWhen, in 1921?,one wooden steamer\n", r"row 2: it has more cells than the header"),
        (
            "question,pages\nWhen?,x\n,1\nWhy?,2-1\n",
            r"gold\.csv has 3 mistakes: row 2: 'x' is .*; row 3: .*; row 4: '2-1'",
        ),
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
    with pytest.raises(UserError, match=r"g\.jsonl, row 3: it is no JSON object"):
        load_gold_questions(gold_file(tmp_path / "g.jsonl", '{"question": "?", "page": 1}\n\n{oops\n'), nodes)
    with pytest.raises(UserError, match="use 'page' or 'quote'"):
        load_gold_questions(tmp_path / "none.csv", nodes, by="chapter")


def test_ranges_of_pages_count_as_all_their_pages(tmp_path, nodes):
    dataset = load_gold_questions(gold_file(tmp_path / "g.csv", "question,pages\nWhen?,1 - 2;3\n"), nodes)
    assert list(dataset.relevant_docs.values()) == [["n0", "n1", "n2"]]


def test_questions_about_pages_that_are_not_here_are_left_out_and_said_so(tmp_path, nodes, capsys):
    text = "question,pages,file\nWhen?,1;9,\nWhy?,8,\nWho?,1,other.pdf\n"
    dataset = load_gold_questions(gold_file(tmp_path / "g.csv", text), nodes)
    assert list(dataset.relevant_docs.values()) == [["n0"]]
    assert [reason.partition(":")[0] for reason in dataset.left_out] == ["row 3", "row 4"]
    assert "2 of 3 gold questions are not about this corpus" in capsys.readouterr().out


def test_gold_questions_found_beside_the_files_serve_only_the_document_that_holds_their_quotes(
    tmp_path, project, capsys
):
    from nbutils.corpus.chunks import load_corpus

    for name in ("brackwater", "norvane"):
        shutil.copy(project / "data" / "sample" / f"{name}_2024.pdf", tmp_path)
    table = pd.read_csv(project / "data" / "sample" / "gold_questions.csv")
    table = table[table.file == "brackwater_2024.pdf"].drop(columns="file")
    table.to_csv(tmp_path / "gold_questions.csv", index=False)
    brackwater, norvane = (load_corpus(tmp_path / f"{name}_2024.pdf") for name in ("brackwater", "norvane"))
    both = gold_questions("auto", [str(tmp_path)], [*brackwater, *norvane])
    assert len(both.queries) == 180 and both.judged_by == "180 by quote"
    assert {chunk for chunks in both.relevant_docs.values() for chunk in chunks} <= {n.node_id for n in brackwater}
    assert gold_questions("auto", [str(tmp_path / "norvane_2024.pdf")], norvane) is None
    assert "gold_questions.csv, found beside the documents, is not used" in capsys.readouterr().out
    assert gold_questions("", [str(tmp_path)], norvane) is None


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
