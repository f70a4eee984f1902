import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from tiny_training import OPTIONS, assert_same_weights

from nbutils.core import UserError
from nbutils.training import engine as engine_module
from nbutils.training import trainer
from nbutils.training.__main__ import main
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.loss import GroupedRankingLoss
from nbutils.training.options import TrainingOptions

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("loss", "steps"),
    [(None, (1, 4, 5, 6, 10)), (losses.MultipleNegativesRankingLoss, (3, 5, 8))],
    ids=["ours", "other"],
)
def test_resuming_from_any_step_ends_where_the_undisturbed_run_does(tiny, dataset, tmp_path, loss, steps):
    """Steps within an epoch of five, at its end, and at the end of all."""
    options = OPTIONS | {
        "epochs": 2,
        "loss": loss,
        "shortest": 0.5,
        "patience": 0,
        "save_checkpoints": True,
        "batch_size": 16 if loss else 8,
    }
    every = options | {"checkpoint_save_steps": 1, "checkpoint_save_total_limit": 0}
    whole = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "whole", **every)
    whole.finetune()
    assert len(list(whole.checkpoint_path.iterdir())) == whole.summary["steps"] == 10
    for step in steps:
        copy = tmp_path / "resumed_checkpoints" / f"checkpoint-{step}"
        shutil.copytree(whole.checkpoint_path / copy.name, copy)
        resumed = SentenceTransformersFinetuneEngine(
            dataset, tiny, tmp_path / "resumed", **options | {"resume_from_checkpoint": True}
        )
        resumed.finetune()
        columns = ["step", "loss", "learning_rate", "dev_ndcg@10"]
        assert resumed.history[columns].round(5).equals(whole.history[columns].round(5)), copy.name
        assert resumed.summary["steps"] == whole.summary["steps"] and resumed.summary["best"] == whole.summary["best"]
        assert_same_weights(tmp_path / "whole", tmp_path / "resumed", atol=1e-6)
        shutil.rmtree(copy.parent)


def test_a_run_that_had_stopped_early_is_not_trained_further(tiny, dataset, tmp_path):
    options = OPTIONS | {
        "learning_rate": 1e-12,  # nothing is learnt, so that no rounding decides when gains have ended
        "patience": 1,
        "save_checkpoints": True,
        "checkpoint_save_steps": 5,
    }
    runs = []
    for _ in range(2):
        engine = SentenceTransformersFinetuneEngine(
            dataset, tiny, tmp_path / "out", **options | {"resume_from_checkpoint": True, "epochs": 4}
        )
        engine.finetune()
        runs.append({name: engine.summary[name] for name in ("kept", "stopped", "steps", "best")})
    assert runs[0] == runs[1] and runs[0]["stopped"] == "no gain" and runs[0]["steps"] == 5


def test_only_whole_checkpoints_of_the_same_run_are_taken_up(tiny, dataset, tmp_path):
    folder = tmp_path / "out_checkpoints"
    for name in ("checkpoint-backup", "checkpoint-99"):  # a user's own folder, and one that a crash left half written
        (folder / name).mkdir(parents=True)
    options = OPTIONS | {"save_checkpoints": True, "checkpoint_save_steps": 3, "resume_from_checkpoint": True}
    first = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **options)
    first.finetune()
    assert {path.name for path in folder.iterdir()} == {"checkpoint-backup", "checkpoint-99", "checkpoint-15"}
    other = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **options | {"seed": 5, "epochs": 2})
    with pytest.warns(UserWarning, match="other data or options"):
        other.finetune()
    names = {path.name for path in folder.iterdir()}
    assert {"checkpoint-backup", "checkpoint-99", f"checkpoint-{other.summary['steps']}"} == names


def test_sub_batches_shrink_where_memory_runs_out_and_the_losses_stay(tiny, dataset, tmp_path, monkeypatch):
    whole = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "whole", **OPTIONS | {"epochs": 1})
    whole.finetune()
    vectors, widest, refused = GroupedRankingLoss._vectors, [], []

    def limited(model, features):
        tokens = features["input_ids"].numel()
        if tokens > most:
            refused.append(tokens)
            raise torch.OutOfMemoryError("CUDA out of memory")
        widest.append(tokens)
        return vectors(model, features)

    monkeypatch.setattr(GroupedRankingLoss, "_vectors", staticmethod(limited))
    most = 200
    small = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "small", **OPTIONS | {"epochs": 1})
    small.finetune()
    assert len(set(refused)) == 1 and len(refused) == 3 and max(widest) <= 200  # 1536 → 768 → 384 → 192
    columns = ["step", "loss", "grad_norm", "dev_ndcg@10"]
    assert small.history[columns].round(4).equals(whole.history[columns].round(4))
    most = 1
    hopeless = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "hopeless", **OPTIONS)
    with pytest.raises(UserError, match="batch_size 8"):
        hopeless.finetune()
    assert not (tmp_path / "hopeless").exists()


@pytest.mark.parametrize(("emulated", "precision"), [(False, "bf16"), (True, "fp16")])
def test_a_gpu_that_only_emulates_bfloat16_trains_in_half_precision(tmp_path, monkeypatch, emulated, precision):
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or not emulated

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    found = {}
    monkeypatch.setattr(trainer, "SentenceTransformerTrainingArguments", lambda **options: found.update(options))
    model = SimpleNamespace(device=torch.device("cuda"), prompts={})
    trainer.training_arguments(model, TrainingOptions(), tmp_path)
    assert {name for name in ("bf16", "fp16") if found[name]} == {precision}
    assert found["logging_steps"] > 1


def test_losses_read_every_few_steps_are_read_at_the_end_of_an_epoch_too(tiny, dataset, tmp_path, monkeypatch):
    made = trainer.training_arguments

    def as_on_a_gpu(*args):
        arguments = made(*args)
        arguments.logging_steps = 4
        return arguments

    monkeypatch.setattr(engine_module, "training_arguments", as_on_a_gpu)
    engine = SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "out", **OPTIONS | {"epochs": 2})
    engine.finetune()
    assert engine.history.step.tolist() == [0, 4, 5, 8, 10]
    assert engine.history.set_index("step").loc[[5, 10], ["loss", "dev_ndcg@10"]].notna().all(axis=None)


RUN = """
import json, os, sys, time
from transformers import TrainerCallback
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.engine import SentenceTransformersFinetuneEngine

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)
        time.sleep(600 if first and state.global_step == 7 else 0)

assert not any(name.startswith("llama_index.finetuning") for name in sys.modules)
for first in (True, False):
    if child := os.fork():
        print("started", child, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    SentenceTransformersFinetuneEngine(
        EmbeddingQAFinetuneDataset.from_json(sys.argv[1]), sys.argv[2], sys.argv[3], callbacks=[Slow()],
        save_checkpoints=True, resume_from_checkpoint=True, checkpoint_save_steps=2, **json.loads(sys.argv[4]),
    ).finetune()
    os._exit(0)
"""


def test_sigkill_and_resume_ends_where_an_undisturbed_run_does(tiny, dataset, tmp_path):
    """Two processes forked from one that has imported all: the first is killed at step 7, the second goes on."""
    dataset.save_json(tmp_path / "data.json")
    options = OPTIONS | {"shortest": 0.5, "patience": 0}
    both = subprocess.Popen(
        [sys.executable, "-c", RUN, tmp_path / "data.json", tiny, tmp_path / "killed", json.dumps(options)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = {"started": [], "step": [], "ended": []}
    for line in both.stdout:
        word, number = line.split()
        found[word].append(int(number))
        if word == "step" and int(number) == 7 and not found["ended"]:
            os.kill(found["started"][0], signal.SIGKILL)
            del found["step"][:]
        if len(found["ended"]) == 1 and word == "ended":
            assert not (tmp_path / "killed").exists()
    assert found["ended"] == [-signal.SIGKILL, 0]
    assert found["step"][0] == 7 and found["step"][-1] == 15
    SentenceTransformersFinetuneEngine(dataset, tiny, tmp_path / "whole", **options).finetune()
    assert_same_weights(tmp_path / "whole", tmp_path / "killed", atol=1e-5)


TWO = """
import gc, runpy, sys
from sentence_transformers.sentence_transformer import losses
from torch.nn.parallel import DistributedDataParallel
from nbutils import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine

model, odd, out, *arguments = sys.argv[1:]
engine = SentenceTransformersFinetuneEngine(
    EmbeddingQAFinetuneDataset.from_json(odd), model, out, batch_size=8, epochs=1, dev_fraction=0,
    loss=losses.MultipleNegativesRankingLoss,
)
engine.finetune()
left = [thing for thing in gc.get_objects() if type(thing) is DistributedDataParallel]
assert not left, "a wrapper that outlives the process group can hang the process"
print("steps", engine.summary["steps"])
sys.argv = ["nbutils.training", *arguments]
runpy.run_module("nbutils.training", run_name="__main__")
left = [thing for thing in gc.get_objects() if type(thing) is DistributedDataParallel]
assert not left
"""


def test_two_processes_end_with_the_model_of_one_and_take_as_many_batches_each(tiny, dataset, tmp_path):
    """First with a loss of one's own over nine batches of eight pairs, then by the command line with ours."""
    dataset.save_json(tmp_path / "data.json")
    odd = dataset.model_copy(update={"queries": dict(list(dataset.queries.items())[:72])})
    odd.save_json(tmp_path / "odd.json")
    (tmp_path / "two.py").write_text(TWO)
    options = ["--model-id", tiny, "--epochs", "2", "--batch-size", "8", "--learning-rate", "0.003"]
    arguments = [str(tmp_path / "data.json"), *options, "--output"]
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", tmp_path / "two.py"]
    done = subprocess.run(
        [*two, tiny, tmp_path / "odd.json", tmp_path / "own", *arguments, tmp_path / "two"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"steps (\d+)", done.stdout) == ["5", "5"] and (tmp_path / "own" / "modules.json").exists()
    main([*arguments, str(tmp_path / "one")])
    models = [SentenceTransformer(str(tmp_path / name), device="cpu") for name in ("one", "two")]
    vectors = [model.encode_document(list(dataset.corpus.values())) for model in models]
    moved = SentenceTransformer(tiny, device="cpu").encode_document(list(dataset.corpus.values()))
    assert (vectors[0] * vectors[1]).sum(1).min() > 0.999 > 0.99 > (vectors[0] * moved).sum(1).mean()
