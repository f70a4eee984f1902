import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from nbutils.core import UserError
from nbutils.models.names import (
    DEFAULT_MODEL,
    load_model,
    longest_input,
    packaged_model,
    prompts_for,
    resolve_embed_model,
)


def copy_of_the_packaged_model(folder: Path) -> Path:
    return Path(shutil.copytree(packaged_model(), folder))


def test_a_folder_s_path_never_chooses_prompts_but_its_own_configuration_does(tmp_path):
    folder = copy_of_the_packaged_model(tmp_path / "e5-small-x" / "bge-base-en" / "model")
    assert not any(load_model(folder).prompts.values())
    assert not any(resolve_embed_model(folder)._model.prompts.values())
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config | {"prompts": {"query": "ask: "}}))
    assert load_model(folder).prompts["query"] == "ask: "
    assert resolve_embed_model(folder)._model.prompts["query"] == "ask: "


def test_a_hub_id_chooses_the_prompts_of_its_family():
    assert prompts_for("intfloat/e5-small-v2") == {"query": "query: ", "document": "passage: "}
    assert prompts_for("sentence-transformers/all-MiniLM-L6-v2") == {"query": "", "document": ""}


def test_a_model_saved_in_half_precision_is_loaded_in_float32(tmp_path):
    SentenceTransformer(packaged_model()).half().save_pretrained(str(tmp_path / "half"))
    assert {weight.dtype for weight in load_model(tmp_path / "half").parameters()} == {torch.float32}


def test_a_model_for_llama_index_is_loaded_once_and_keeps_trust_remote_code(monkeypatch):
    loaded, original = [], SentenceTransformer.__init__

    def counting(self, *args, **kwargs):
        loaded.append(kwargs.get("trust_remote_code"))
        original(self, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "__init__", counting)
    embedding = resolve_embed_model(DEFAULT_MODEL, trust_remote_code=True)
    assert loaded == [True]
    assert len(embedding.get_query_embedding("ship")) == len(embedding.get_text_embedding("ship")) == 384


def test_a_model_reads_no_further_than_its_position_embeddings():
    model = load_model(DEFAULT_MODEL, max_seq_length=8192)
    assert model.max_seq_length == longest_input(model) == 512


@pytest.mark.parametrize("name", ["no/such/model", "./nowhere", ""])
def test_a_name_that_is_no_model_is_said_so(name):
    with pytest.raises(UserError, match="neither the packaged"):
        load_model(name)
