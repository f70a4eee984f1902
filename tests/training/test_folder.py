import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_training import OPTIONS

from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.folder import lineage


@pytest.mark.slow
def test_no_file_of_the_model_tells_a_path_or_a_text_and_older_versions_read_them(tiny, dataset, tmp_path):
    engine = SentenceTransformersFinetuneEngine(
        dataset, f"local:{tiny}", tmp_path / "out", **OPTIONS | {"epochs": 1, "prompts": {"query": "ask: "}}
    )
    engine.finetune()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None and "dev_ndcg@10" in card.text and "'ask: '" in card.text
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".md", ".json") and file.name not in ("tokenizer.json", "vocab.json"):
            text = file.read_text()
            assert not any(str(folder) in text for folder in (Path(tiny).parent, tmp_path, Path.home())), file
            assert not any(chunk in text for chunk in dataset.corpus.values())
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["type"].rpartition(".")[0] for module in modules] == ["sentence_transformers.models"] * 3
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_cls_token"]


def test_the_chain_of_models_is_named_by_hub_ids_and_bare_folder_names(tiny, tmp_path):
    packaged = ["sentence-transformers/all-MiniLM-L6-v2"]
    assert lineage("all-MiniLM-L6-v2") == lineage(packaged[0]) == packaged
    assert lineage("BAAI/bge-small-en") == ["BAAI/bge-small-en"]
    assert lineage("all-mpnet-base-v2") == ["sentence-transformers/all-mpnet-base-v2"]
    assert lineage(tiny) == ["model"] == lineage(f"local:{tiny}")
    shutil.copytree(tiny, tmp_path / "mine")
    cards = {
        "base_model: BAAI/bge-m3": ["BAAI/bge-m3"],
        "base_model: /home/me/secret": [],
        "base_model: [": [],
        "base_model: {a: 1}": [],
    }
    cards["base_model: 5"] = ["5"]
    for head, known in cards.items():
        (tmp_path / "mine" / "README.md").write_text(f"---\n{head}\n---\n")
        assert lineage(str(tmp_path / "mine")) == [*known, "mine"]
