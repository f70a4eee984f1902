"""Fine-tuning: the loss against a slow reference, the engine on a tiny model, crashes, resumption, processes."""

import inspect
import itertools
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel, TrainerCallback

from nbutils.core import UserError
from nbutils.models.names import packaged_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.documented import DocumentedEngine
from nbutils.training.engine import (
    SentenceTransformersFinetuneEngine,
    make_engine,
    pass_sparse_gradients,
    search_scores,
)
from nbutils.training.loss import GroupedRankingLoss

OPTIONS = {"batch_size": 8, "epochs": 3, "learning_rate": 3e-3, "dev_fraction": 0.25, "show_progress_bar": False}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a random BERT of two layers and 32 dimensions that reads 64 tokens."""
    root = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(packaged_model())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    words = Transformer(str(root / "bert"), max_seq_length=64)
    modules = [words, Pooling(words.get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(root / "model"))
    return str(root / "model")


@pytest.fixture(scope="session")
def dataset():
    """48 chunks of 12 words with two questions each; each question asks with synonyms that training can learn."""
    draw = random.Random(1)
    words = [f"{a}{b}" for a, b in itertools.product(("gross", "net", "cash", "tax", "debt", "lease"), "abcdefghij")]
    corpus = {f"c{i}": " ".join(draw.sample(words, 10)) for i in range(48)}
    queries, relevant = {}, {}
    for chunk_id, text in corpus.items():
        for half in range(2):
            queries[f"{chunk_id}q{half}"] = "what about " + " ".join(w[::-1] for w in text.split()[half * 5 :][:5])
            relevant[f"{chunk_id}q{half}"] = [chunk_id]
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)


class Lookup(torch.nn.Module):
    """A model whose vectors stand in a table: token id -> vector."""

    def __init__(self, rows: int, size: int = 6):
        super().__init__()
        self.table = torch.nn.Embedding(rows, size)

    def forward(self, features):
        mask = features["attention_mask"][..., None]
        return {"sentence_embedding": (self.table(features["input_ids"]) * mask).sum(1) / mask.sum(1)}


def reference(q, c, own, answers, scale):
    """The loss of GroupedRankingLoss, one term at a time."""
    q, c = torch.nn.functional.normalize(q, dim=1), torch.nn.functional.normalize(c, dim=1)
    forward, backward = [], []
    for i in range(len(q)):
        right = torch.exp(scale * q[i] @ c[own[i]])
        wrong = sum(torch.exp(scale * q[i] @ c[k]) for k in range(len(c)) if k not in answers[i] and k != own[i])
        wrong += sum(torch.exp(scale * q[i] @ q[j]) for j in range(len(q)) if own[j] != own[i])
        forward.append(-torch.log(right / (right + wrong)))
        wrong = sum(
            torch.exp(scale * c[own[i]] @ q[j]) for j in range(len(q)) if own[j] != own[i] and own[i] not in answers[j]
        )
        backward.append(-torch.log(right / (right + wrong)))
    return (torch.stack(forward).mean() + torch.stack(backward).mean()) / 2


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_loss_is_the_reference_whatever_the_sub_batches(data):
    chunks = data.draw(st.integers(2, 5))
    own = [chunk for chunk in range(chunks) for _ in range(data.draw(st.integers(1, 3)))]
    answers = [[own[i], *data.draw(st.lists(st.integers(0, chunks - 1), max_size=2))] for i in range(len(own))]
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = Lookup(40)

    def tokens(rows):
        lengths = torch.randint(1, 6, (rows,))
        mask = (torch.arange(5) < lengths[:, None]).long()
        return {"input_ids": torch.randint(1, 40, (rows, 5)) * mask, "attention_mask": mask}

    features = [tokens(len(own)), tokens(chunks)]
    labels = {
        "query": torch.arange(len(own)), "chunk": torch.arange(chunks), "own": torch.tensor(own),
    }  # fmt: skip
    expected = reference(*(model(f)["sentence_embedding"] for f in features), own, answers, 5.0)
    expected.backward()
    gradient = model.table.weight.grad.clone()
    for per_pass, kept, sparse in ((1000, None, False), (7, 0, False), (5, 10, True), (7, 0, True)):
        model.zero_grad()
        if sparse and not model.table.sparse:
            pass_sparse_gradients(model.table)
        loss = GroupedRankingLoss(model, answers, scale=5.0, tokens_per_pass=per_pass, tokens_kept=kept)
        value = loss(features, labels)
        value.backward()
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
        assert not model.table.weight.grad.is_sparse
        assert torch.allclose(model.table.weight.grad, gradient, atol=1e-5)


@given(st.integers(0, 1000), st.lists(st.integers(3, 60), min_size=1, max_size=8))
def test_shorten_cuts_within_bounds_and_keeps_the_end_mark(step, lengths):
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.full(mask.shape, 7) * mask
    for row, length in enumerate(lengths):
        ids[row, length - 1] = 102
    loss = GroupedRankingLoss(Lookup(2), [], shortest=0.25)
    loss.step = step
    cut = loss.shorten({"input_ids": ids, "attention_mask": mask})
    again = loss.shorten({"input_ids": ids, "attention_mask": mask})
    assert torch.equal(cut["input_ids"], again["input_ids"])
    for row, length in enumerate(lengths):
        left = int(cut["attention_mask"][row].sum())
        assert min(length, math.floor(max(lengths) / 4)) <= left <= length
        assert cut["input_ids"][row, left - 1] == 102


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
    held_out = [q for q in dataset.queries if q in engine._dev]
    assert search_scores(loaded, dataset, held_out)["ndcg@10"] == pytest.approx(
        summary["best"]["dev_ndcg@10"], abs=0.01
    )
    pooling = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] and not pooling["pooling_mode_cls_token"]
    texts = ["lease debt", "cash"]
    assert np.allclose(loaded.encode(texts), engine.model.encode(texts), atol=1e-6)
    files = {path.name for path in (tmp_path / "out").rglob("*")}
    assert "model.safetensors" in files and not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "dev_ndcg@10" in card and not any(text in card for text in dataset.corpus.values())


def test_held_out_chunks_are_whole_and_not_trained_on(tiny, dataset, tmp_path):
    engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **OPTIONS)
    train, dev = engine._split()
    chunk_of = {q: dataset.relevant_docs[q][0] for q in dataset.queries}
    assert {chunk_of[q] for q in train}.isdisjoint(chunk_of[q] for q in dev)
    assert len({chunk_of[q] for q in dev}) == 12 and len(train) + len(dev) == len(dataset.queries)


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


def test_a_base_that_did_better_as_shipped_is_kept_so_or_named(tiny, dataset, tmp_path):
    draw, texts = random.Random(2), list(dataset.corpus.values())
    noisy = EmbeddingQAFinetuneDataset(
        queries={q: dataset.corpus[dataset.relevant_docs[q][0]] for q in dataset.queries},
        corpus={c: " ".join([text, text, text, *draw.sample(texts, 3)]) for c, text in dataset.corpus.items()},
        relevant_docs=dataset.relevant_docs,
    )
    for name, rate, message in (("base", 0.9, "did not beat the base"), ("tuned", 3e-4, "Compare both in notebook 4")):
        engine = SentenceTransformersFinetuneEngine(noisy, tiny, tmp_path / name, **OPTIONS | {"learning_rate": rate})
        assert engine.model.max_seq_length > engine.shipped_max_seq_length
        with pytest.warns(UserWarning, match=message):
            engine.finetune()
        summary, scores = engine.summary, ("best", "base", "base_as_shipped")
        best, base, shipped = (summary[which]["dev_ndcg@10"] for which in scores)
        if name == "base":
            assert summary["kept"] == "base" and summary["max_seq_length"] == 64 and best == shipped > base
            assert_same_weights(tiny, tmp_path / "base")
        else:
            assert summary["kept"] == "fine-tuned" and summary["max_seq_length"] > 64 and shipped > best > base


def assert_same_weights(one, other, **tolerance):
    one, other = (load_file(Path(folder) / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], **tolerance), name


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


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 1}, "batch_size"), ({"blend": 2}, "blend"), ({"learning_rate": 0}, "learning_rate"),
        ({"dev_fraction": 1}, "dev_fraction"), ({"shortest": 0}, "shortest"),
        ({"model_id": "no/such/model"}, "no/such"),
    ],
)  # fmt: skip
def test_bad_options_are_named(tiny, dataset, tmp_path, options, word):
    with pytest.raises(UserError, match=word):
        SentenceTransformersFinetuneEngine(dataset, **{"model_id": tiny, "model_output_path": tmp_path / "x"} | options)


def test_finetune_refuses_what_it_does_not_know(tiny, dataset, tmp_path):
    engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **OPTIONS)
    with pytest.raises(UserError, match="warmup"):
        engine.finetune(warmup=3)
    engine.finetune(epochs=1, batch_size=4)
    assert engine.summary["recipe"]["batch_size"] == 4 and engine.summary["steps"] == 9


def test_too_few_pairs_and_loose_ends(tiny, tmp_path):
    one = EmbeddingQAFinetuneDataset(queries={"q": "x"}, corpus={"c": "y"}, relevant_docs={"q": ["c"]})
    with pytest.raises(UserError, match="two at least"):
        SentenceTransformersFinetuneEngine(one, tiny, tmp_path / "out").finetune()
    loose = EmbeddingQAFinetuneDataset(queries={"q": "x"}, corpus={"c": "y"}, relevant_docs={"q": ["z"]})
    with pytest.raises(UserError, match="Question q"):
        SentenceTransformersFinetuneEngine(loose, tiny, tmp_path / "out").finetune()


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


RUN = """
import json, sys, time
from transformers import TrainerCallback
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.engine import SentenceTransformersFinetuneEngine

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print(state.global_step, flush=True)
        time.sleep(float(sys.argv[4]))

assert not any(name.startswith("llama_index.finetuning") for name in sys.modules)
SentenceTransformersFinetuneEngine(
    EmbeddingQAFinetuneDataset.from_json(sys.argv[1]), sys.argv[2], sys.argv[3], callbacks=[Slow()],
    save_checkpoints=True, resume_from_checkpoint=True, checkpoint_save_steps=2, **json.loads(sys.argv[5]),
).finetune()
"""


@pytest.mark.slow
def test_sigkill_and_resume_ends_where_an_undisturbed_run_does(tiny, dataset, tmp_path):
    dataset.save_json(tmp_path / "data.json")
    options = json.dumps(OPTIONS | {"shortest": 0.5, "patience": 0})

    def start(name, pause):
        return subprocess.Popen(
            [sys.executable, "-c", RUN, tmp_path / "data.json", tiny, tmp_path / name, str(pause), options],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    undisturbed = start("whole", 0)
    killed = start("killed", 0.3)
    for line in killed.stdout:
        if int(line) == 7:
            killed.send_signal(signal.SIGKILL)
            break
    killed.wait()
    assert undisturbed.wait() == 0
    assert not (tmp_path / "killed").exists()
    resumed = start("killed", 0)
    steps = [int(line) for line in resumed.stdout]
    assert resumed.wait() == 0
    assert steps[0] == 7 and steps[-1] == 15
    assert_same_weights(tmp_path / "whole", tmp_path / "killed", atol=1e-6)


def test_checkpoints_of_other_data_are_not_taken_up(tiny, dataset, tmp_path):
    options = OPTIONS | {"save_checkpoints": True, "checkpoint_save_steps": 3, "resume_from_checkpoint": True}
    SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **options).finetune()
    with pytest.warns(UserWarning, match="other data or options"):
        SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **options | {"seed": 5}).finetune()


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


def test_any_loss_of_sentence_transformers(tiny, dataset, tmp_path):
    engine = SentenceTransformersFinetuneEngine(
        dataset, tiny, tmp_path / "out", **OPTIONS | {"loss": losses.MultipleNegativesRankingLoss}
    )
    engine.finetune()
    assert engine.history.loss.dropna().iloc[-1] < engine.history.loss.dropna().iloc[0]
    assert engine.summary["recipe"]["loss"] == "MultipleNegativesRankingLoss"


TWO = """
import gc, sys, torch
from torch.nn.parallel import DistributedDataParallel
from nbutils.training.engine import SentenceTransformersFinetuneEngine, main

finetune = SentenceTransformersFinetuneEngine.finetune

def finetune_and_look(engine):
    assert not finetune(engine)
    left = [thing for thing in gc.get_objects() if type(thing) is DistributedDataParallel]
    assert not left, "a wrapper that outlives the process group can hang the process"

SentenceTransformersFinetuneEngine.finetune = finetune_and_look
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_end_with_the_model_of_one(tiny, dataset, tmp_path):
    dataset.save_json(tmp_path / "data.json")
    (tmp_path / "two.py").write_text(TWO)
    options = ["--model-id", tiny, "--epochs", "2", "--batch-size", "8", "--learning-rate", "0.003"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    one = [sys.executable, "-m", "nbutils.training.engine"]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", tmp_path / "two.py"]
    for name, command in (("one", one), ("two", two)):
        subprocess.run(
            [*command, tmp_path / "data.json", "--output", tmp_path / name, *options],
            check=True, env=environment, stdout=subprocess.DEVNULL, timeout=180,
        )  # fmt: skip
    models = [SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("one", "two")]
    vectors = [model.encode_document(list(dataset.corpus.values())) for model in models]
    moved = SentenceTransformer(tiny, device="cpu").encode_document(list(dataset.corpus.values()))
    assert (vectors[0] * vectors[1]).sum(1).min() > 0.999 > 0.99 > (vectors[0] * moved).sum(1).mean()


def test_the_readme_s_lines_train(dataset, tmp_path, monkeypatch):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    lines = next(block for block in blocks if "SentenceTransformersFinetuneEngine(" in block)
    (tmp_path / "outputs/tutorial").mkdir(parents=True)
    dataset.save_json(tmp_path / "outputs/tutorial/train_dataset.json")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines, names)
    assert names["engine"].summary["kept"] == "fine-tuned"
    assert len(names["embed_model"].get_query_embedding("net debt")) == 384
    options = re.findall(r"(\w+)=", readme.split("What else the engine takes")[1].split("```bash")[0])
    assert set(options) <= set(inspect.signature(SentenceTransformersFinetuneEngine.__init__).parameters)


def test_engines_by_name(tiny, dataset, tmp_path):
    pytest.importorskip("llama_index.finetuning", exc_type=ImportError)
    engine = make_engine("llama-index", dataset, tiny, tmp_path / "out", epochs=1, show_progress_bar=False)
    assert isinstance(engine, DocumentedEngine)
    with pytest.raises(UserError, match="learning_rate"):
        make_engine("llama-index", dataset, tiny, tmp_path / "out", learning_rate=1e-4)
    with pytest.raises(UserError, match="ENGINE"):
        make_engine("openai", dataset)


def test_a_longer_length_than_the_model_reads_is_said(tiny, dataset, tmp_path):
    with pytest.warns(UserWarning, match="reads 128 tokens at most"):
        engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", max_seq_length=4000)
    assert engine.model.max_seq_length == 128
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "x").model.max_seq_length == 64
