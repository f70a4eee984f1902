"""The model to deploy goes on from the walkthrough's, with the same options."""

import json

import pytest
from safetensors.torch import load_file

from nbutils.core import UserError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, with_queries
from nbutils.training.deploy import continue_on_all, learn_questions, question_folds
from nbutils.training.documented import DocumentedEngine
from nbutils.training.engine import SentenceTransformersFinetuneEngine

pytestmark = pytest.mark.slow


@pytest.fixture
def halves(dataset):
    chunks = list(dataset.corpus)
    return [
        EmbeddingQAFinetuneDataset(
            queries={q: text for q, text in dataset.queries.items() if dataset.relevant_docs[q][0] in part},
            corpus={chunk: dataset.corpus[chunk] for chunk in part},
            relevant_docs={q: found for q, found in dataset.relevant_docs.items() if found[0] in part},
        )
        for part in (chunks[:24], chunks[24:])
    ]


def test_all_pairs_are_learned_with_every_option_of_the_first_engine(tiny, halves, tmp_path):
    first = SentenceTransformersFinetuneEngine(
        halves[0], tiny, tmp_path / "first", batch_size=8, epochs=2, learning_rate=1e-3, frozen_layers=1, scale=10,
        show_progress_bar=False,
    )  # fmt: skip
    first.finetune()
    deployed = continue_on_all(first, *halves, output_path=tmp_path / "all")
    assert deployed.summary["train_questions"] == 96 and deployed.summary["dev_questions"] == 0
    changed = {"epochs": 1, "dev_fraction": 0, "teacher": tiny, "max_seq_length": 64}
    assert dict(deployed.options) == dict(first.options) | changed
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "all"))
    moved = {name for name in before if not before[name].equal(after[name])}
    assert moved and not any("layer.0." in name or "word_embeddings" in name for name in moved)


def test_the_documented_engine_goes_on_with_its_own_options(tiny, halves, tmp_path):
    pytest.importorskip("llama_index.finetuning", exc_type=ImportError)
    first = DocumentedEngine(
        halves[0], tiny, tmp_path / "first", epochs=1, batch_size=4, max_seq_length=32, val_dataset=halves[1],
        show_progress_bar=False,
    )  # fmt: skip
    first.finetune()
    deployed = continue_on_all(first, *halves, output_path=tmp_path / "all")
    assert deployed.summary["recipe"] == {"engine": "llama-index", "epochs": 1, "batch_size": 4}
    assert deployed.summary["max_seq_length"] == 32 and (tmp_path / "all" / "modules.json").exists()


def test_questions_about_the_same_chunk_are_in_one_fold_and_folds_are_alike():
    found = {f"q{i}": [f"c{i // 2}"] for i in range(40)} | {"both": ["c0", "c1"]}
    dataset = EmbeddingQAFinetuneDataset(
        queries=dict.fromkeys(found, "?"), corpus={chunk: "" for each in found.values() for chunk in each},
        relevant_docs=found,
    )  # fmt: skip
    parts = question_folds(dataset, 4)
    assert sorted(map(len, parts)) == [10, 10, 10, 11] and set.union(*parts) == set(found)
    assert any({"q0", "q1", "q2", "q3", "both"} <= part for part in parts)
    assert question_folds(dataset, 4, seed=1) != parts == question_folds(dataset, 4)
    assert len(question_folds(with_queries(dataset, {"q0", "q9"}), 4)) == 2


def test_each_fold_has_a_model_that_has_not_learned_its_questions(tiny, halves, tmp_path):
    first = SentenceTransformersFinetuneEngine(
        halves[0], tiny, tmp_path / "all", batch_size=8, epochs=1, learning_rate=1e-3, show_progress_bar=False
    )
    first.finetune()
    before = (tmp_path / "all" / "model.safetensors").read_bytes()
    asked = with_queries(halves[1], list(halves[1].queries)[:12])
    deployed = learn_questions(first, asked, tmp_path / "folds", folds=3)
    folds = json.loads((tmp_path / "folds" / "folds.json").read_text())
    assert set(folds) == {asked.relevant_docs[query][0] for query in asked.queries} and set(folds.values()) == {0, 1, 2}
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("folds/0", "folds/1", "folds/2", "all")]
    assert len({before, *models}) == 5
    assert deployed.summary["train_questions"] == 12 and deployed.model_output_path == first.model_output_path
    alone = with_queries(asked, [query for query, (chunk,) in asked.relevant_docs.items() if chunk in list(folds)[:2]])
    with pytest.raises(UserError, match=r"TRAIN_ON_GOLD.*one or two chunks"):
        learn_questions(first, alone, tmp_path / "none")
