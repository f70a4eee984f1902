"""Fine-tune from the command line: `torchrun --nproc-per-node 2 -m nbutils.training train_dataset.json`."""

import argparse
import json
import sys

import torch

from nbutils.core import UserError
from nbutils.models.names import DEFAULT_MODEL
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.loss import process, processes


def main(arguments: list[str] | None = None) -> None:
    """Fine-tune as the arguments say and print the summary, once for all processes."""
    parser = argparse.ArgumentParser(prog="nbutils.training", description="Fine-tune an embedding model.")
    parser.add_argument("dataset", help="question dataset, a JSON file")
    parser.add_argument("--model-id", default=DEFAULT_MODEL, help="base model")
    parser.add_argument("--output", default="exp_finetune", help="folder to write the model to")
    parser.add_argument("--save-checkpoints", action="store_true", help="save the state of training as it goes")
    parser.add_argument("--resume", action="store_true", help="continue from the latest checkpoint")
    for name in (
        "epochs", "batch-size", "learning-rate", "max-seq-length", "seed", "device", "dev-fraction",
        "checkpoint-save-steps", "lora-rank",
    ):  # fmt: skip
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help="see TrainingOptions")
    options = vars(parser.parse_args(arguments))
    dataset = EmbeddingQAFinetuneDataset.from_json(options.pop("dataset"))
    options["resume_from_checkpoint"] = options.pop("resume")
    engine = SentenceTransformersFinetuneEngine(dataset, options.pop("model_id"), options.pop("output"), **options)
    engine.finetune()
    if process() == 0:
        print(json.dumps(engine.summary, indent=2))
    if processes() > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
