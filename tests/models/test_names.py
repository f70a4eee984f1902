import json
import shutil
from pathlib import Path

import numpy as np
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
from nbutils.models.vectors import encode, model_fingerprint


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


@pytest.fixture
def static(tmp_path) -> Path:
    """A static embedding as sentence-transformers saves those of model2vec, in half precision."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = SentenceTransformer(packaged_model()).tokenizer.backend_tokenizer
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu").half()
    model.save_pretrained(str(tmp_path / "static"))
    return tmp_path / "static"


def test_a_static_embedding_is_searched_with(static):
    model = load_model(static, max_seq_length=128)
    vectors = encode(model, ["the ferry " * 2000, "the ferry", "fares"], bf16=False)
    assert vectors.dtype == np.float32 and vectors[0] @ vectors[1] > 0.999 > abs(vectors[0] @ vectors[2])
    embedding = resolve_embed_model(static)
    assert embedding.get_text_embedding("the ferry") == pytest.approx(vectors[1].tolist(), abs=1e-3)
    assert model_fingerprint(model) == model_fingerprint(embedding)


def test_a_static_embedding_is_compared_and_not_fine_tuned(static, tmp_path):
    from nbutils.evaluation.compare import compare_models
    from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
    from nbutils.training.engine import SentenceTransformersFinetuneEngine

    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "What do fares cost?"}, corpus={"a": "Fares cost 9.", "b": "Cranes."}, relevant_docs={"q": ["a"]}
    )
    models = {"base": static, "fine-tuned": packaged_model()}
    costs = compare_models(dataset, models, base="base", tuned="fine-tuned", cache=False, verbose=False).costs
    assert list(costs.system) == ["base", "fine-tuned"]
    with pytest.raises(UserError, match="static embedding"):
        SentenceTransformersFinetuneEngine(dataset, model_id=static, model_output_path=tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "model2vec"}, "without modules.json"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "is quantised"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, changes, says):
    folder = copy_of_the_packaged_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=says):
        load_model(folder)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n", None])
def test_weights_that_are_damaged_are_told(tmp_path, content):
    weights = copy_of_the_packaged_model(tmp_path / "model") / "model.safetensors"
    weights.write_bytes(content or weights.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="damaged or incomplete"):
        load_model(tmp_path / "model")


def test_a_model_whose_vectors_would_mean_nothing_is_refused(tmp_path):
    from transformers import AutoModelForSequenceClassification

    reranker, emptied, broken = (copy_of_the_packaged_model(tmp_path / name) for name in ("reranker", "emptied", "nan"))
    AutoModelForSequenceClassification.from_pretrained(reranker, num_labels=1).save_pretrained(reranker)
    (reranker / "modules.json").unlink()
    for file in ("tokenizer.json", "vocab.txt"):
        (emptied / file).unlink(missing_ok=True)
    model = SentenceTransformer(str(broken))
    next(model.parameters()).data.fill_(float("nan"))
    model.save_pretrained(str(broken))
    for folder, says in ((reranker, "is a reranker"), (emptied, "no vocabulary"), (broken, "not all numbers")):
        with pytest.raises(UserError, match=says):
            load_model(folder)
