"""The model to deploy goes on from the walkthrough's, with the same options."""

import pytest
from safetensors.torch import load_file

from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.deploy import continue_on_all
from nbutils.training.documented import DocumentedEngine
from nbutils.training.engine import SentenceTransformersFinetuneEngine


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
