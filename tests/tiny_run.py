"""A run for notebook 6 that took no training: twelve chunks, and the base model as its fine-tuned one."""

import shutil
from pathlib import Path

from nbutils.corpus.chunks import load_corpus, save_corpus
from nbutils.corpus.files import resolve
from nbutils.models.names import packaged_model
from nbutils.pipeline.run import Run
from nbutils.questions.generate import generate_qa_embedding_pairs


def make_tiny_run(outputs: Path, name: str = "tiny") -> Run:
    """Write the run's folder to `outputs`."""
    run = Run(name, outputs)
    nodes = load_corpus(resolve("data/sample/brackwater_2024.pdf"), chunk_size=128)[100:112]
    for part in ("train", "val"):
        save_corpus(nodes, run.path(f"{part}_corpus.json"))
        generate_qa_embedding_pairs(nodes, "offline", output_path=run.path(f"{part}_dataset.json"), verbose=False)
    shutil.copytree(packaged_model(), run.path("model"))
    run.record(
        "01_build_corpus", parameters={"TRAIN_FILES": [], "VAL_FILES": [], "CHUNK_SIZE": 128, "CHUNK_OVERLAP": 16}
    )
    run.record("03_finetune_embedding", parameters={"BASE_MODEL": "all-MiniLM-L6-v2"})
    return run
