from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import OPTIONS

from nbutils.training.engine import SentenceTransformersFinetuneEngine

pytestmark = pytest.mark.slow


def test_blend_lies_between_base_and_tuned(tiny, dataset, tmp_path):
    for name, blend in (("full", 1.0), ("half", 0.5)):
        SentenceTransformersFinetuneEngine(
            dataset, tiny, tmp_path / name, **OPTIONS | {"blend": blend, "dev_fraction": 0, "epochs": 1}
        ).finetune()
    base, full, half = (
        load_file(Path(folder) / "model.safetensors") for folder in (tiny, tmp_path / "full", tmp_path / "half")
    )
    for name in base:
        assert torch.allclose(half[name], (base[name] + full[name]) / 2, atol=1e-5)


def test_matryoshka_frozen_layers_and_all_documents(tiny, dataset, tmp_path):
    data = dataset.model_copy(deep=True)
    data.relevant_docs["c0q0"] = ["c0", "c1"]
    engine = SentenceTransformersFinetuneEngine(
        data, tiny, tmp_path / "out",
        **OPTIONS | {"matryoshka_dims": (16,), "frozen_layers": 1, "use_all_docs": True, "dev_fraction": 0},
    )  # fmt: skip
    engine.finetune()
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (tiny, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("encoder.layer.1") for name in changed)
    assert not any(name.startswith(("embeddings.word", "encoder.layer.0")) for name in changed)


def test_lora_is_merged_into_a_plain_model(tiny, dataset, tmp_path):
    pytest.importorskip("peft")
    engine = SentenceTransformersFinetuneEngine(
        dataset, tiny, tmp_path / "out", **OPTIONS | {"lora_rank": 4, "dev_fraction": 0}
    )
    engine.finetune()
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (tiny, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert not torch.equal(before["encoder.layer.0.output.dense.weight"], after["encoder.layer.0.output.dense.weight"])
    assert torch.equal(before["embeddings.word_embeddings.weight"], after["embeddings.word_embeddings.weight"])
