import pytest
from llama_index.core.schema import TextNode

from nbutils.questions.places import Places
from nbutils.questions.tables import Row


@pytest.mark.parametrize(
    ("texts", "relevant"),
    [
        (["The ferry's first de-\nparture was in 1921 from Oslo.", "Rates rose."], [0]),
        (["The ferry\u2019s \ufb01rst departure  was in\n1921 from Oslo.", "Rates rose."], [0]),
        (["We tell how the ferry's first departure", "was in 1921 from Oslo. Then rates rose."], [0, 1]),
        (["We tell how the ferry's first departure was in 1921", "from Oslo. Then rates rose."], [0]),
        (["The", "ferry's first departure was in 1921 from Oslo.", "Rates rose."], [1]),
        (["The ferry's first departure (below) was in 1921 from Oslo.", "Rates rose."], [0]),
        (["We tell how the ferry's first", "departure was in", "1921 from Oslo. Then rates rose."], [0, 1, 2]),
        (
            ["A ferry's first departure was in 1921 from Oslo.", "The ferry's first departure was in 1921 from Oslo."],
            [1],
        ),
    ],
)
def test_a_quote_is_found_across_hyphens_ligatures_and_borders(texts, relevant):
    nodes = [TextNode(id_=str(i), text=text, metadata={"file_name": "a.pdf"}) for i, text in enumerate(texts)]
    row = Row(question="When?", quote="the ferry's first departure was in 1921 from Oslo")
    [place] = Places(nodes).place([(2, row)], {})
    assert (place.by, place.chunks) == ("quote", [str(i) for i in relevant])


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("Über.pdf", ["U\u0308ber.pdf"], "U\u0308ber.pdf"),
        ("2023/report.pdf", ["2022/report.pdf", "2023/report.pdf"], "2023/report.pdf"),
        ("/home/me/2022/Report.PDF", ["2022/report.pdf", "2023/report.pdf"], "2022/report.pdf"),
        ("report", ["report.pdf", "old report.pdf"], "report.pdf"),
        ("https://x.example/a%20b.pdf", ["a b.pdf"], "a b.pdf"),
        ("2024/report.pdf", ["2022/report.pdf"], "of another file"),
        ("report.pdf", ["2022/report.pdf", "2023/report.pdf"], "bad row"),
    ],
)
def test_a_file_is_meant_by_its_name_however_it_is_written(name, files, expected):
    nodes = [TextNode(id_=file, text=".", metadata={"file_name": file, "page": 1}) for file in files]
    [place] = Places(nodes).place([(1, Row(question="?", file=name, page="1"))], {})
    assert (place.chunks or [place.status]) == [expected]


@pytest.mark.parametrize("pages", ["1-3", "1 – 3", "p. 1, p. 2; 3", "1.0;2.0;3.0", "pp.1-3"])
def test_pages_as_people_write_them(pages):
    nodes = [TextNode(id_=str(i), text=".", metadata={"file_name": "a.pdf", "page": i}) for i in range(5)]
    [place] = Places(nodes).place([(1, Row(question="?", page=pages))], {})
    assert place.chunks == ["1", "2", "3"], place.reason
