import io

import pandas as pd
import pytest

from nbutils.core import UserError
from nbutils.questions.tables import read_questions, read_table

WIDE = "Was kostet es?"


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"sep=;\nquestion;pages\nWas kostet es?;3\n", 3),
        (b'"sep=;"\r\n\r\nquestion;pages\r\nWas kostet es?;3\r\n', 4),
        (b"question;pages\nWas kostet es?;3\n;\n\n;\n", 2),
        (b"\n\nquestion\tpages\n\nWas kostet es?\t3\n", 5),
        (b"Question | Pages\rWas kostet es? | 3\r", 2),
        ("question;pages;\r\nWas kostet es?;3;\r\n".encode("utf-16"), 2),
        ("question;pages\r\nWas kostet es?;3\r\n".encode("utf-16-be"), 2),
        ('\ufeffQuestion,Pages\n"Was kostet es?",3\n'.encode(), 2),
    ],
)
def test_the_dialects_of_spreadsheets(tmp_path, data, number):
    (tmp_path / "dialect.csv").write_bytes(data)
    assert read_table(tmp_path / "dialect.csv") == ([(number, {"question": WIDE, "pages": "3"})], {})


def test_an_old_encoding_is_found_out(tmp_path):
    question = "Währung und Gebühren für große Fähren?"
    (tmp_path / "old.csv").write_bytes(f"question,pages\n{question},3\n".encode("cp1252"))
    assert read_table(tmp_path / "old.csv")[0][0][1]["question"] == question


def test_what_cannot_be_read_says_why(tmp_path):
    for name, data, message in (
        ("a.xlsx", b"no workbook", "no XLSX workbook"),
        ("a.csv", b'question,page\n"When?,1\n', "cannot be read as a table"),
        ("a.csv", b"name,page\nWhen?,1\n", "no column 'question'.*name, page"),
        ("a.json", b"[{]", r"cannot be read as \.json"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=message):
            read_table(tmp_path / name)


def test_notes_beside_a_sheet_are_no_mistake(tmp_path):
    sheet = io.BytesIO()
    pd.DataFrame([["question", "page", None], ["When?", 3, "ask Ann"]]).to_excel(sheet, index=False, header=False)
    (tmp_path / "a.xlsx").write_bytes(sheet.getvalue())
    assert read_table(tmp_path / "a.xlsx") == ([(2, {"question": "When?", "page": "3"})], {})


def test_example_questions_come_from_a_table_or_from_lines_and_what_is_missing_is_named(tmp_path):
    (tmp_path / "log.csv").write_text("query;page\nWhen?;3\n\nWhy?;4\n")
    (tmp_path / "asked.txt").write_bytes("How?\r\n\r\nÜber wen?\r\n".encode("utf-16"))
    assert read_questions(tmp_path / "log.csv") == ["When?", "Why?"]
    assert read_questions(tmp_path / "asked.txt") == ["How?", "Über wen?"]
    assert read_questions("") == []
    (tmp_path / "empty.txt").write_text("\n")
    for name, reason in (("none.txt", "Cannot read"), ("empty.txt", "holds no question")):
        with pytest.raises(UserError, match=f"{reason}|{name}"):
            read_questions(tmp_path / name)
