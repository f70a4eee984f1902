import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_training import OPTIONS

from nbutils.training.card import hub_id
from nbutils.training.engine import SentenceTransformersFinetuneEngine


@pytest.mark.parametrize("spelling", ["{}", "local:{}"])
def test_no_file_of_the_model_tells_a_path_or_a_text(tiny, dataset, tmp_path, spelling):
    engine = SentenceTransformersFinetuneEngine(
        dataset, spelling.format(tiny), tmp_path / "out", **OPTIONS | {"epochs": 1, "prompts": {"query": "ask: "}}
    )
    engine.finetune()
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model is None and "dev_ndcg@10" in card.text and "'ask: '" in card.text
    for file in (tmp_path / "out").rglob("*"):
        if file.suffix in (".md", ".json") and file.name not in ("tokenizer.json", "vocab.json"):
            text = file.read_text()
            assert not any(str(folder) in text for folder in (Path(tiny).parent, tmp_path, Path.home())), file
            assert not any(chunk in text for chunk in dataset.corpus.values())


def test_the_base_is_a_name_on_the_hub_or_none(tiny):
    packaged = "sentence-transformers/all-MiniLM-L6-v2"
    assert hub_id("all-MiniLM-L6-v2") == hub_id(packaged) == packaged
    assert hub_id("BAAI/bge-small-en") == "BAAI/bge-small-en"
    assert hub_id("all-mpnet-base-v2") == "sentence-transformers/all-mpnet-base-v2"
    assert hub_id(tiny) is None is hub_id(f"local:{tiny}")


def test_the_folder_is_readable_by_older_versions(tiny, dataset, tmp_path):
    SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **OPTIONS | {"epochs": 1}).finetune()
    modules = json.loads((tmp_path / "out" / "modules.json").read_text())
    assert [module["type"].rpartition(".")[0] for module in modules] == ["sentence_transformers.models"] * 3
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_cls_token"]
