"""What the search box finds and shows, with real retrievers over a handful of chunks."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import make_tiny_run

from nbutils.core import UserError
from nbutils.plots import search_box as box

TEXTS = {
    "ferry": "The ferry to Isle Merrow sails twice a day in summer & once in winter <b>only</b>.",
    "debt": "Long-term debt fell by $12 million after the bridge loan was repaid in March.",
    "crew": "A deckhand needs four months of training before the first watch alone.",
}


@pytest.fixture(scope="module")
def retrievers():
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    from nbutils.models.names import resolve_embed_model

    model = resolve_embed_model("all-MiniLM-L6-v2")
    nodes = [
        TextNode(
            id_=name,
            text=text,
            metadata={"file_name": "report.pdf", "page": page},
            excluded_embed_metadata_keys=["page"],
        )
        for page, (name, text) in enumerate(TEXTS.items(), 1)
    ]
    index = VectorStoreIndex(nodes, embed_model=model)
    return {"one": index.as_retriever(similarity_top_k=1), "all": index.as_retriever(similarity_top_k=3)}


def test_side_by_side_says_where_and_at_which_rank(retrievers):
    questions = ["How often does the boat go?", "borrowings repaid", "my own question"]
    table = box.side_by_side(retrievers, questions, {questions[0]: ["ferry"], questions[1]: ["crew"]})
    assert list(table.index) == questions
    assert table.loc[questions[0], "one: first chunk"] == "report.pdf, page 1"
    assert list(table["one: rank of the relevant chunk"].isna()) == [False, True, True]
    assert table.loc[questions[0], "all: rank of the relevant chunk"] == 1
    assert table.loc[questions[1], "all: rank of the relevant chunk"] > 1
    assert not [name for name in box.side_by_side(retrievers, questions) if "rank" in name]


def test_results_are_escaped_marked_and_in_order(retrievers):
    page = box.results_html("winter <i>ferry</i>", retrievers, relevant=["ferry"])
    assert "<b>only" not in page
    assert "&lt;b&gt;only" in page
    assert "<mark>ferry</mark>" in page
    assert page.count("known to answer it") == 2
    assert page.count("<article") == 4
    scores = [float(score) for score in re.findall(r"score (-?[\d.]+)", page.split("<h4>all")[1])]
    assert scores == sorted(scores, reverse=True)
    assert "Type a question" in box.results_html("  ", retrievers)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.text(max_size=60), st.integers(80, 200))
def test_an_excerpt_is_always_text_with_marks_only(text, question, characters):
    shown = box._excerpt(text, question, characters)
    plain = re.sub(r"</?mark>", "", shown)
    assert "<" not in plain
    assert ">" not in plain
    assert shown.count("<mark>") == shown.count("</mark>")


def test_an_excerpt_shows_the_words_asked_for():
    text = "word " * 200 + "the harbour dues of Tamsin rose " + "word " * 200
    assert "<mark>harbour</mark> <mark>dues</mark>" in box._excerpt(text, "What are the harbour dues?", 200)
    assert box._excerpt("Vessels . . . . . . . . . . . 18", "", 100) == "Vessels … 18"


def test_the_widget_searches_on_enter_and_on_click_and_shows_errors(retrievers):
    widget = box.search_box(retrievers, question="ferry in winter", relevant={"ferry in winter": ["ferry"]})
    (line, button), found = widget.children[0].children, widget.children[1]
    assert "known to answer it" in found.value
    line.value = "training of a deckhand"
    assert "<mark>deckhand</mark>" in found.value
    assert "known to answer it" not in found.value
    found.value = ""
    button.click()
    assert "<mark>deckhand</mark>" in found.value

    class Broken:
        def retrieve(self, question):
            raise RuntimeError("the <index> is gone")

    assert "RuntimeError: the &lt;index&gt; is gone" in box.search_box({"x": Broken()}, question="q?").children[1].value


@pytest.mark.slow
def test_notebook_6_runs_headless_over_other_files_and_gold_questions_beside_them(project, tmp_path):
    outputs = tmp_path / "outputs"
    run = make_tiny_run(outputs)
    (tmp_path / "note.txt").write_text("The lighthouse of Tamsin was lit for the first time in 1871.")
    (tmp_path / "gold_questions.csv").write_text("question,quote\nWhen was it lit?,lit for the first time in 1871\n")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", str(project / "notebooks" / "06_use_the_model.ipynb"),
         "out.ipynb", "-p", "RUN_NAME", "tiny", "-y", "FILES: [note.txt]\nQUESTIONS: ['When was it lit?']"],
        cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"NBUTILS_OUTPUTS": str(outputs)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("base", "fine-tuned"):
        stored = json.loads((run.folder / "index" / name / "docstore.json").read_text())
        assert "lighthouse" in json.dumps(stored)
    shown = (tmp_path / "out.ipynb").read_text()
    assert "lit for the first time" in shown and "known to answer it" in shown
    assert run.read()["steps"]["06_use_the_model"]["indexed_chunks"] == 1


def test_notebook_6_names_the_notebook_to_run_first(project):
    notebook = nbformat.read(project / "notebooks" / "06_use_the_model.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    with pytest.raises(UserError, match=r"Run 01_build_corpus\.ipynb with RUN_NAME = 'tutorial' first"):
        exec("\n".join(code[:3]), {})
