"""How fast the device at hand trains and embeds: tokens per second, share of its matrix peak, time to the first step.

    python benchmarks/device_speed.py DATASET.json [--chunks 96] [--device cuda]

DATASET.json is a question dataset. Its first chunks are learned for one epoch, by nbutils and then by the documented
engine, and embedded. Seconds of training are those of `finetune()`. The first training of the process gives the time to the
first step, the model's loading with it. Tokens are those of the texts, without padding; the documented engine reads a chunk once for each of its questions, so that its row
counts more of them for the same pairs. The peak is that of a product of two square matrices in the precision used.
"""

import argparse
import contextlib
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import TrainerCallback

from nbutils.core import UserError
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.vectors import encode, use_bf16
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.documented import DocumentedEngine
from nbutils.training.engine import SentenceTransformersFinetuneEngine

ATEN = torch.ops.aten  # torch does not count a CPU's attention by itself
COUNTED = {
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}


class FirstStep(TrainerCallback):
    """Notes when the first step ended."""

    at = None

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.at = self.at or time.perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="question dataset, a JSON file")
    parser.add_argument("--chunks", type=int, default=96, help="chunks to learn and to embed")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="base model")
    parser.add_argument("--device", help="cuda, mps or cpu; default is the best one there is")
    options = parser.parse_args()
    data = first_chunks(EmbeddingQAFinetuneDataset.from_json(options.dataset), options.chunks)
    model = load_model(options.model, device=options.device)
    device, half = model.device, use_bf16(model.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{device} ({name}), {torch.get_num_threads()} threads, {'bfloat16' if half else 'float32'}, {options.model}, "
          f"{len(data.corpus)} chunks, {len(data.queries)} questions")  # fmt: skip

    first, given = FirstStep(), {"epochs": 1, "dev_fraction": 0, "show_progress_bar": False, "device": str(device)}
    begun = time.perf_counter()
    length, _ = train(SentenceTransformersFinetuneEngine, data, options.model, callbacks=(first,), **given)
    print(f"first step after {first.at - begun:.1f} s\n")
    model.max_seq_length = length
    queries = sum(count(model, text) for text in data.queries.values())
    chunks = sum(count(model, text) for text in data.corpus.values())
    pairs = sum(count(model, data.corpus[found[0]]) for found in data.relevant_docs.values())

    peak = flops_per_second(lambda: timed(product, 4096 if device.type == "cuda" else 1024, device, half))[0]
    print(f"| work | seconds | tokens/s | TFLOP/s | of the peak ({peak / 1e12:.2f} TFLOP/s) |\n|---|---|---|---|---|")
    row("embedding", chunks, peak, lambda: timed(encode, model, list(data.corpus.values())))
    seconds = row("training, nbutils", chunks + queries, peak,
                  lambda: train(SentenceTransformersFinetuneEngine, data, options.model, **given)[1])  # fmt: skip
    if options.device is None:  # the documented engine takes the best device
        theirs = {"epochs": 1, "show_progress_bar": False, "max_seq_length": length}
        documented = row("training, documented engine", pairs + queries, peak,
                         lambda: train(DocumentedEngine, data, options.model, **theirs)[1])  # fmt: skip
        print(f"\nnbutils takes {seconds / documented:.2f} of the documented engine's time, both at {length} tokens.")
    return 0


def first_chunks(data: EmbeddingQAFinetuneDataset, number: int) -> EmbeddingQAFinetuneDataset:
    """Return the first chunks that have questions, with these."""
    asked = dict.fromkeys(found[0] for found in data.relevant_docs.values())
    corpus = {chunk: data.corpus[chunk] for chunk in list(asked)[:number]}
    relevant = {query: found for query, found in data.relevant_docs.items() if found[0] in corpus}
    queries = {query: data.queries[query] for query in relevant}
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)


def train(engine: type, data: EmbeddingQAFinetuneDataset, model: str, **settings) -> tuple[int, float]:
    """Train one model and return how many tokens it reads and the seconds of its `finetune()`."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        trained = engine(data, model, f"{folder}/model", **settings)
        seconds = timed(trained.finetune)
        return trained.summary["max_seq_length"], seconds


def timed(work: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def count(model, text: str) -> int:
    return min(len(model.tokenizer(text, verbose=False)["input_ids"]), model.max_seq_length)


def product(size: int, device: torch.device, half: bool) -> None:
    square = torch.randn(size, size, device=device, dtype=torch.bfloat16 if half else torch.float32)
    for _ in range(50):
        square @ square
    if device.type == "cuda":
        torch.cuda.synchronize()


def flops_per_second(work: Callable[[], float]) -> tuple[float, float]:
    """Do some work, which returns its seconds, once to count its floating-point operations and thrice by the clock.

    Returns:
        The best rate and its seconds.
    """
    with contextlib.redirect_stdout(sys.stderr):
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            work()
        seconds = min(work() for _ in range(3))
    return counter.get_total_flops() / seconds, seconds


def row(what: str, tokens: int, peak: float, work: Callable[[], float]) -> float:
    """Print a row about some work and return its seconds."""
    rate, seconds = flops_per_second(work)
    print(f"| {what} | {seconds:.2f} | {tokens / seconds:,.0f} | {rate / 1e12:.2f} | {rate / peak:.0%} |", flush=True)
    return seconds


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
