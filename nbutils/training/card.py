"""What stands beside the weights: a card with data, recipe, results and limits, and settings that all can read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.models.names import DEFAULT_MODEL

if TYPE_CHECKING:
    from nbutils.training.engine import SentenceTransformersFinetuneEngine


def model_card(engine: "SentenceTransformersFinetuneEngine") -> str:
    """Return the card of the model that `engine` has trained, in Markdown with a YAML head."""
    summary, model = engine.summary, engine.model
    read = model.max_seq_length
    prompts = {name: text for name, text in model.prompts.items() if text}
    columns = [summary[name] for name in ("base_as_shipped", "base", "best")]
    scores = [
        f"| {name} | " + " | ".join(f"{column[name]:.3f}" for column in columns) + " |" for name in summary["best"]
    ]
    recipe = [f"| {name} | {value} |" for name, value in summary["recipe"].items()]
    lines = [
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        *([] if Path(engine.model_id).is_dir() else [f"base_model: {_hub_id(engine.model_id)}"]),
        "tags: [sentence-transformers, sentence-similarity, feature-extraction]",
        "---",
        "",
        f"# {engine.model_output_path.name}: {Path(engine.model_id).name}, fine-tuned on questions about one corpus",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{engine.model_output_path.name}")',
        "queries, documents = model.encode_query([...]), model.encode_document([...])",
        "```",
        "",
        f"Reads {read} tokens of a text, gives {model.get_embedding_dimension()} numbers, compared by "
        "cosine similarity.",
        *(
            [
                "",
                f"Prompts: {prompts}. sentence-transformers adds them by itself; LlamaIndex needs",
                f"`HuggingFaceEmbedding(folder, query_instruction={prompts.get('query', '')!r}, "
                f"text_instruction={prompts.get('document', '')!r})`.",
            ]
            if prompts
            else []
        ),
        "",
        "## Data",
        "",
        f"{summary['train_questions']} questions on {summary['train_chunks']} chunks to train on; "
        f"{summary['dev_questions']} questions on other chunks to choose the best epoch.",
        "",
        "## Results on the development split",
        "",
        f"Kept: the {summary['kept']} model.",
        "",
        *(
            [
                f"| score | base, {engine.shipped_max_seq_length} tokens | base, {read} tokens | kept |",
                "|---|---|---|---|",
                *scores,
            ]
            if scores
            else ["No development split was asked for."]
        ),
        "",
        "The kept epoch was chosen on these questions, so expect a little less on new ones.",
        "",
        "## Recipe",
        "",
        "| option | value |",
        "|---|---|",
        *recipe,
        f"| steps | {summary['steps']} (kept: {summary['best_step']}) |",
        f"| seconds | {summary['seconds']} on {summary['device']} |",
        "",
        "## Limits",
        "",
        "Fine-tuned for the documents and the kind of question it has seen; on others it may be worse than the base.",
        "Scores on questions that a language model wrote say little about those that people ask: test it on your own.",
    ]
    return "\n".join(lines) + "\n"


def _hub_id(name: str) -> str:
    return f"sentence-transformers/{name}" if name == DEFAULT_MODEL else name


def in_the_older_form(folder: Path, max_seq_length: int) -> None:
    """Rewrite what sentence-transformers 6 writes in a new form as earlier versions and embedding servers read it."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    names = [module["type"].rpartition(".")[2] for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or not {*names[2:]} <= {"Normalize", "Dense"}:
        return
    for module, name in zip(modules, names, strict=True):
        module["type"] = f"sentence_transformers.models.{name}"
    path.write_text(json.dumps(modules, indent=2))
    path = folder / modules[1]["path"] / "config.json"
    pooling = json.loads(path.read_text())
    chosen = [pooling["pooling_mode"]] if isinstance(pooling["pooling_mode"], str) else pooling["pooling_mode"]
    flags = {
        "cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "weightedmean": "weightedmean_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "lasttoken": "lasttoken",
    }  # fmt: skip
    older = {"word_embedding_dimension": pooling["embedding_dimension"]}
    older |= {f"pooling_mode_{flag}": mode in chosen for mode, flag in flags.items()}
    path.write_text(json.dumps(older | {"include_prompt": pooling.get("include_prompt", True)}, indent=2))
    settings = {"max_seq_length": max_seq_length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings, indent=2))
