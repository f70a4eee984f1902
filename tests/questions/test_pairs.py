import json

import pandas as pd
import pytest
from llama_index.core.schema import TextNode

from nbutils.core import UserError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.pairs import load_pairs

TEXTS = [
    "Brackwater began in 1921 with one wooden steamer and carried butter and mail.",
    "Each crossing in winter waits for the weather, and crews suffer.",
    "The loan of $5.2 million falls due on 31 March 2027 and may be repaid earlier without penalty.",
]


@pytest.fixture
def nodes():
    return [
        TextNode(id_=f"n{i}", text=text, metadata={"file_name": "report.pdf", "page": i + 1})
        for i, text in enumerate(TEXTS)
    ]


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.slow
def test_every_pair_of_the_sample_finds_its_chunk_whatever_the_size(project, capsys):
    from nbutils.corpus.chunks import load_corpus

    file = project / "data" / "sample" / "training_questions.csv"
    rows = pd.read_csv(file)
    for size in (128, 1024):
        nodes = load_corpus(project / "data" / "sample" / "brackwater_2024.pdf", chunk_size=size, chunk_overlap=20)
        pairs = load_pairs(file, nodes)
        own = rows.file == "brackwater_2024.pdf"
        assert (pairs.placed.status == "placed").tolist() == own.tolist()
        assert (pairs.placed.by[own] == "quote").all()
        assert set(pairs.placed.status[~own]) == {"of another file"}
        assert pairs.corpus == {node.node_id: node.text for node in nodes}
        assert f"{(~own).sum()} are about other files" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "Search term,Clicked URL\nwhen can it be repaid,https://intranet.example/docs/Report.pdf#page=3\n",
        "query\turl\tpage\nwhen can it be repaid\tC:\\docs\\report.pdf\t3\n",
        "question;answer\nwhen can it be repaid;The loan falls due on 31 March 2027 and may be repaid earlier\n",
        "Subject,Description,Resolution\nwhen can it be repaid,help!,"
        "The loan of $5.2 million falls due on 31 March 2027 and may be repaid earlier without penalty\n",
        "anchor,positive\nwhen can it be repaid,may be repaid earlier without penalty\n",
    ],
)
def test_search_logs_faqs_and_tickets_are_read_as_they_are(tmp_path, nodes, text):
    pairs = load_pairs(written(tmp_path / "log.csv", text), nodes)
    assert list(pairs.queries.values()) == ["when can it be repaid"]
    assert list(pairs.relevant_docs.values()) == [["n2"]]


def test_pairs_from_a_workbook_and_from_json_lines(tmp_path, nodes):
    rows = [
        {"Question": "When?", "File": "report", "Page": 1},
        {},
        {"Question": "Why?", "File": "report", "Page": "2-3"},
    ]
    pd.DataFrame(rows).to_excel(tmp_path / "pairs.xlsx", index=False)
    written(tmp_path / "pairs.jsonl", "\n".join(json.dumps(row) for row in rows if row))
    for name, numbers in (("pairs.xlsx", [2, 4]), ("pairs.jsonl", [1, 2])):
        pairs = load_pairs(tmp_path / name, nodes)
        assert list(pairs.relevant_docs.values()) == [["n0"], ["n1", "n2"]]
        assert pairs.placed.row.tolist() == numbers


def test_a_dataset_cut_in_other_chunks_finds_its_passages_by_text(tmp_path, nodes):
    corpus = {"a": " ".join(TEXTS), "b": TEXTS[1], "c": "Something that no document says anywhere, in many words."}
    queries, relevant = {"q1": "All?", "q2": "Why?", "q3": "What?"}, {"q1": ["a"], "q2": ["b"], "q3": ["c"]}
    EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant).save_json(tmp_path / "d.json")
    pairs = load_pairs(tmp_path / "d.json", nodes)
    assert list(pairs.relevant_docs.values()) == [["n0", "n1", "n2"], ["n1"]]
    assert pairs.placed.status.tolist() == ["placed", "placed", "no chunk holds it"]


def test_bad_rows_are_told_all_at_once_or_skipped(tmp_path, nodes, capsys):
    text = "question,file,page,quote\nWhen?,,1,\n,,2,\nWhy?,,first,\nWho?,,,\nOver?,,9,\nElse?,other.pdf,1,\nA?,,1,,x\n"
    path = written(tmp_path / "pairs.csv", text)
    with pytest.raises(UserError, match=r"PAIRS: .*pairs\.csv has 4 bad rows of 7: row 3: .*; row 4: .*; row 5: .*8: "):
        load_pairs(path, nodes)
    pairs = load_pairs(path, nodes, bad_rows="skip")
    assert list(pairs.queries.values()) == ["When?"]
    assert pairs.placed.status.tolist() == [
        "placed", "bad row", "bad row", "bad row", "no chunk holds it", "of another file", "bad row"
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "1 point to no chunk (row 6: page 9 of report.pdf has no chunk (pages end at 3))" in out
    assert "4 are bad and were skipped (row 3:" in out


def test_the_same_question_in_several_rows_has_several_chunks(tmp_path, nodes):
    pairs = load_pairs(written(tmp_path / "p.csv", "query,page\nWhen?,1\nwhen? ,2\nwhen?,2\n"), nodes)
    assert list(pairs.relevant_docs.values()) == [["n0", "n1"]]
    assert pairs.placed["query"].nunique() == 1


def test_pairs_keep_headers_and_may_hold_nothing_of_these_nodes(tmp_path, nodes):
    nodes[0].metadata["header"] = "Report"
    pairs = load_pairs(written(tmp_path / "p.csv", "query,file,page\nWhen?,other.pdf,1\n"), nodes)
    assert not pairs.queries and pairs.headers == {"n0": "Report"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frage,seite\nWann?,1\n", "has no column 'question'.*frage, seite"),
        ("question,page\n", "holds no row"),
        ("question,page\nWhen?,1\n", "corpus holds 2 documents"),
    ],
)
def test_pairs_that_say_too_little(tmp_path, nodes, text, message):
    other = TextNode(text="Other.", metadata={"file_name": "other.pdf", "page": 1})
    with pytest.raises(UserError, match=message):
        load_pairs(written(tmp_path / "p.csv", text), [*nodes, other])
