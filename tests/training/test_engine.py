import itertools
import json
import random
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from tiny_training import OPTIONS, assert_same_weights
from transformers import TrainerCallback

from nbutils.core import UserError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.options import TrainingOptions
from nbutils.training.split import search_scores

pytestmark = pytest.mark.slow


def test_it_learns_and_writes_a_model(tiny, dataset, tmp_path):
    seen = []
    engine = SentenceTransformersFinetuneEngine(
        dataset, tiny, tmp_path / "out", **OPTIONS | {"epochs": 6, "on_progress": seen.append}
    )
    engine.finetune()
    summary = engine.summary
    assert summary["kept"] == "fine-tuned"
    assert summary["best"]["dev_ndcg@10"] > summary["base"]["dev_ndcg@10"]
    assert engine.history["dev_ndcg@10"].max() == summary["best"]["dev_ndcg@10"]
    assert engine.history.learning_rate.dropna().gt(0).all()
    assert len(seen[-1]) > 1
    loaded = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert loaded.max_seq_length == engine.model.max_seq_length
    held_out = list(engine.dev_dataset.queries)
    assert search_scores(loaded, dataset, held_out)["ndcg@10"] == pytest.approx(
        summary["best"]["dev_ndcg@10"], abs=0.01
    )
    texts = ["lease debt", "cash"]
    assert np.allclose(loaded.encode(texts), engine.model.encode(texts), atol=1e-6)
    files = {path.name for path in (tmp_path / "out").rglob("*")}
    assert "model.safetensors" in files and not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_same_seed_same_model(tiny, dataset, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        engine = SentenceTransformersFinetuneEngine(
            dataset, tiny, tmp_path / name, **OPTIONS | {"epochs": 1, "seed": seed, "dev_fraction": 0, "shortest": 0.5}
        )
        engine.finetune()
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_base_is_kept_where_training_only_hurts(tiny, dataset, tmp_path):
    good = tmp_path / "good"
    SentenceTransformersFinetuneEngine(dataset, tiny, good, **OPTIONS | {"epochs": 8}).finetune()
    engine = SentenceTransformersFinetuneEngine(
        dataset, good, tmp_path / "out", **OPTIONS | {"learning_rate": 0.9, "epochs": 2}
    )
    with pytest.warns(UserWarning, match="did not beat the base"):
        engine.finetune()
    assert engine.summary["kept"] == "base" and engine.summary["best"] == engine.summary["base"]
    assert_same_weights(good, tmp_path / "out")


def test_a_base_that_did_better_as_shipped_is_kept_as_shipped(tiny, dataset, tmp_path):
    draw, texts = random.Random(2), list(dataset.corpus.values())
    noisy = EmbeddingQAFinetuneDataset(
        queries={q: dataset.corpus[dataset.relevant_docs[q][0]] for q in dataset.queries},
        corpus={c: " ".join([text, text, text, *draw.sample(texts, 3)]) for c, text in dataset.corpus.items()},
        relevant_docs=dataset.relevant_docs,
    )
    engine = SentenceTransformersFinetuneEngine(noisy, tiny, tmp_path / "out", **OPTIONS | {"learning_rate": 1e-7})
    assert engine.model.max_seq_length > engine.shipped_max_seq_length
    with pytest.warns(UserWarning, match="did not beat the base"):
        engine.finetune()
    summary = engine.summary
    assert summary["kept"] == "base" and summary["best_step"] == 0 and summary["max_seq_length"] == 64
    assert summary["best"] == summary["base_as_shipped"] != summary["base"]
    assert_same_weights(tiny, tmp_path / "out")


def test_training_goes_on_from_a_tuned_folder_with_the_first_base_as_teacher(tiny, dataset, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "README.md").write_text("---\nbase_model: some/base\n---\n")
    SentenceTransformersFinetuneEngine(dataset, base, tmp_path / "first", **OPTIONS | {"epochs": 6}).finetune()
    weights, options = {}, OPTIONS | {"epochs": 1, "dev_fraction": 0}
    for teacher in (None, str(base), f"local:{tmp_path / 'first'}"):
        engine = SentenceTransformersFinetuneEngine(
            dataset, tmp_path / "first", tmp_path / "second", teacher=teacher, **options
        )
        engine.finetune()
        weights[teacher] = (tmp_path / "second" / "model.safetensors").read_bytes()
        assert engine.summary["base_models"] == ["some/base", "base", "first"]
        assert str(tmp_path) not in json.dumps(engine.summary)
        card = ModelCard.load(tmp_path / "second" / "README.md")
        assert card.data.base_model == "some/base" and "second: base → base → first" in card.text
        assert str(tmp_path) not in str(card)
    first, base_taught, itself = weights.values()
    assert first == itself != base_taught
    with pytest.raises(UserError, match=r"teacher.*nowhere"):
        SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "x", teacher="./nowhere", **options).finetune()


def test_headers_are_trained_on_as_often_as_asked_and_always_judged(tiny, dataset, tmp_path):
    data = dataset.model_copy(deep=True)
    data.headers = {chunk: " ".join(text.split()[:4]) for chunk, text in dataset.corpus.items()}
    bare = data.model_copy(update={"corpus": data.passages(), "headers": {}})
    found = []
    for each, dropout in ((data, 0), (bare, 0.5), (data, 0.5)):
        engine = SentenceTransformersFinetuneEngine(
            each, tiny, tmp_path / "out", **OPTIONS | {"epochs": 1, "header_dropout": dropout}
        )
        engine.finetune()
        found.append((engine.summary["base"], engine.history.loss.dropna().round(4).tolist()))
    assert found[0] == found[1] and found[0][0] == found[2][0] and found[0][1] != found[2][1]
    assert engine.dev_dataset.headers == data.headers


@pytest.mark.parametrize("loss", [None, losses.MultipleNegativesRankingLoss])
def test_queries_are_learned_with_their_documents_names_as_often_as_asked_whatever_the_loss(
    tiny, dataset, tmp_path, loss
):
    found = []
    three = dict(zip(dataset.corpus, itertools.cycle(["report", "ferry", "net"])))
    for names, rate in ((three, 1), (three, 0), ({}, 1)):
        data = dataset.model_copy(update={"names": names})
        options = OPTIONS | {"epochs": 1, "dev_fraction": 0, "loss": loss, "named_queries": rate}
        engine = SentenceTransformersFinetuneEngine(data, tiny, tmp_path / "out", **options)
        engine.finetune()
        found.append(engine.history.loss.dropna().round(4).tolist())
    assert found[0] != found[1] == found[2]


def test_batch_larger_than_the_data_and_two_chunks(tiny, tmp_path):
    two = EmbeddingQAFinetuneDataset(
        queries={"a": "net income", "b": "leases"}, corpus={"c": "income", "d": "leases"},
        relevant_docs={"a": ["c"], "b": ["d"]},
    )  # fmt: skip
    engine = SentenceTransformersFinetuneEngine(two, tiny, tmp_path / "out", batch_size=64, epochs=2)
    engine.finetune()
    assert engine.summary["steps"] == 2 and engine.history.learning_rate.dropna().gt(0).all()


def test_a_loss_that_is_no_number_is_said(tiny, dataset, tmp_path):
    engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **OPTIONS)
    with torch.no_grad():
        next(engine.model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="no longer a number"):
        engine.finetune()
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_the_best_so_far(tiny, dataset, tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 12:
                raise KeyboardInterrupt

    engine = SentenceTransformersFinetuneEngine(
        dataset, tiny, tmp_path / "out", **OPTIONS | {"epochs": 20, "callbacks": [Interrupt()]}
    )
    engine.finetune()
    assert engine.summary["stopped"] == "interrupted" and engine.summary["steps"] == 12
    assert (tmp_path / "out" / "modules.json").exists()


def test_prompts_are_the_same_everywhere(tiny, dataset, tmp_path):
    prompts = {"query": "search_query: ", "document": "search_document: "}
    engine = SentenceTransformersFinetuneEngine(
        dataset, tiny, tmp_path / "out", **OPTIONS | {"prompts": prompts, "epochs": 1, "dev_fraction": 0}
    )
    engine.finetune()
    texts = ["How much debt falls due?", "Leases are debt."]
    folder = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    embedding = engine.get_finetuned_model(device="cpu")
    for ours, theirs, prompt in (
        (folder.encode_query(texts), [embedding.get_query_embedding(text) for text in texts], "query"),
        (folder.encode_document(texts), embedding.get_text_embedding_batch(texts), "document"),
    ):
        assert np.allclose(ours, theirs, atol=1e-5)
        assert np.allclose(ours, folder.encode([prompts[prompt] + text for text in texts], prompt=""), atol=1e-5)
    assert not np.allclose(folder.encode_query(texts), folder.encode_document(texts), atol=1e-3)


def test_any_loss_of_sentence_transformers(tiny, dataset, tmp_path):
    engine = SentenceTransformersFinetuneEngine(
        dataset, tiny, tmp_path / "out", **OPTIONS | {"loss": losses.MultipleNegativesRankingLoss}
    )
    engine.finetune()
    assert engine.history.loss.dropna().iloc[-1] < engine.history.loss.dropna().iloc[0]
    assert engine.summary["recipe"]["loss"] == "MultipleNegativesRankingLoss"


def test_the_lines_of_the_documents_train(dataset, tmp_path, monkeypatch):
    document = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    lines = next(block for block in blocks if "engine.finetune()" in block)
    (tmp_path / "outputs/tutorial").mkdir(parents=True)
    dataset.save_json(tmp_path / "outputs/tutorial/train_dataset.json")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    assert names["engine"].summary["kept"] == "fine-tuned"
    assert len(names["embed_model"].get_query_embedding("net debt")) == 384
    options = re.findall(r"`?(\w+)=", document.split("| Argument | For |")[1].split("\n\n")[0])
    assert set(options) <= set(TrainingOptions.model_fields)


def test_a_longer_length_than_the_model_reads_is_said(tiny, dataset, tmp_path):
    with pytest.warns(UserWarning, match="reads 128 tokens at most"):
        engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", max_seq_length=4000)
    assert engine.model.max_seq_length == 128
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "x").model.max_seq_length == 64


def test_a_base_in_half_precision_is_trained_in_full(tiny, dataset, tmp_path):
    SentenceTransformer(tiny, device="cpu").half().save_pretrained(str(tmp_path / "half"))
    engine = SentenceTransformersFinetuneEngine(dataset, tmp_path / "half", tmp_path / "out", **OPTIONS | {"epochs": 1})
    engine.finetune()
    assert {value.dtype for value in engine.model.parameters()} == {torch.float32}
    assert {value.dtype for value in SentenceTransformer(str(tmp_path / "out")).parameters()} == {torch.float32}


def test_nothing_is_switched_for_the_whole_process(tiny, dataset, tmp_path):
    import datasets

    engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **OPTIONS | {"epochs": 1})
    datasets.enable_progress_bars()
    engine.finetune()
    assert not datasets.are_progress_bars_disabled()
