"""The question sets of a run, on the sample reports."""

import csv

import pytest
from retrieval_examples import Words

from nbutils.core import project_folder
from nbutils.corpus.chunks import load_corpus
from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.leaks import near_copies
from nbutils.evaluation.sets import ALL_GOLD, GOLD, gold_sets

SAMPLE = project_folder() / "data" / "sample"
FILES = [[str(SAMPLE / "norvane_2024.pdf")], [str(SAMPLE / "brackwater_2024.pdf")]]


@pytest.fixture(scope="module")
def nodes():
    return [load_corpus(files, chunk_size=256, chunk_overlap=40) for files in FILES]


def test_gold_questions_about_all_documents_are_searched_in_their_own(nodes):
    sets = gold_sets("auto", *FILES, *nodes, {})
    assert list(sets) == [GOLD, ALL_GOLD]
    assert len(sets[GOLD].queries) == 180 and len(sets[ALL_GOLD].queries) == 336
    documents = sets[ALL_GOLD].documents
    found = compare_models(
        sets, {"base": Words(), "all": Words()}, leave_out={"all": [GOLD]}, hybrid=False, verbose=False
    ).per_query
    assert set(found.question_set[found.system == "all"]) == {ALL_GOLD}
    for row in found[found.question_set == ALL_GOLD].itertuples():
        assert {documents[chunk] for chunk in row.retrieved} <= {documents[row.expected]}


def test_a_training_question_that_nearly_repeats_a_gold_question_is_told_and_the_rest_stands_beside(nodes, capsys):
    known = gold_sets("auto", *FILES, *nodes, {})
    question = next(iter(known[GOLD].queries.values()))
    sets = gold_sets("auto", *FILES, *nodes, {"t": f"so {question.lower()}"})
    assert f"- {question}" in capsys.readouterr().out
    assert len(sets[f"{GOLD}, no near-copies"].queries) == 179
    assert len(sets[f"{ALL_GOLD}, no near-copies"].queries) == 335


def test_the_sample_trains_on_no_near_copy_of_a_gold_question():
    with (
        open(SAMPLE / "gold_questions.csv", encoding="utf-8") as gold,
        open(SAMPLE / "training_questions.csv", encoding="utf-8") as pairs,
    ):
        asked = {str(i): row["question"] for i, row in enumerate(csv.DictReader(gold))}
        assert not len(near_copies(asked, [row["question"] for row in csv.DictReader(pairs)]))


def test_where_all_gold_questions_are_about_the_validation_documents_there_is_one_set(nodes):
    assert list(gold_sets("auto", [], FILES[1], [], nodes[1], {})) == [GOLD]
