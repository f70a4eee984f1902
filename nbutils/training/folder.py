"""The folder of a fine-tuned model: its files, its card (origin, use, recipe, results, limits), its lineage."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load

from nbutils.core import atomic_path
from nbutils.models.names import DEFAULT_MODEL, resolve_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEMPLATE = """---
{{ card_data }}
---

# {{ name }}: {{ base_name }}, fine-tuned on questions about one corpus

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{{ name }}")
queries, documents = model.encode_query([...]), model.encode_document([...])
```

Reads {{ max_seq_length }} tokens of a text and gives {{ dimensions }} numbers, compared by cosine similarity.
{% if prompts %}
Prompts: {{ prompts }}. sentence-transformers adds them by itself; LlamaIndex needs
`HuggingFaceEmbedding(folder, query_instruction={{ prompts.query | pprint }}, text_instruction={{ prompts.document | pprint }})`.
{% endif %}
## Data

{{ train_questions }} questions on {{ train_chunks }} chunks to train on; {{ dev_questions }} questions on other chunks \
to choose the best epoch.

## Results on the development split

Kept: the {{ kept }} model.
{% if best %}
| score | base, {{ shipped_max_seq_length }} tokens | base, {{ max_seq_length }} tokens | kept |
|---|---|---|---|
{% for score in best -%}
| {{ score }} | {{ "%.3f" | format(base_as_shipped[score]) }} | {{ "%.3f" | format(base[score]) }} | \
{{ "%.3f" | format(best[score]) }} |
{% endfor %}
The kept epoch was chosen on these questions, so expect a little less on new ones.
{% else %}
No development split was asked for.
{% endif %}
## Recipe

| option | value |
|---|---|
{% for option, value in recipe.items() -%}
| {{ option }} | {{ value }} |
{% endfor -%}
| steps | {{ steps }} (kept: {{ best_step }}) |
| seconds | {{ seconds }} on {{ device }} |

## Limits

Fine-tuned for the documents and the kind of question it has seen; on others it may be worse than the base.
Scores on questions that a language model wrote say little about those that people ask: test it on your own.
"""


def save_folder(model: "SentenceTransformer", folder: Path, summary: dict[str, Any]) -> None:
    """Write a fine-tuned model and its card, whole or not at all; the summary is the engine's."""
    with atomic_path(folder) as staged:
        model.save_pretrained(str(staged), create_model_card=False)
        _in_the_older_form(staged, model.max_seq_length)
        (staged / "README.md").write_text(_model_card(model, folder.name, summary), encoding="utf-8")


def _in_the_older_form(folder: Path, max_seq_length: int) -> None:
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


def _model_card(model: "SentenceTransformer", name: str, summary: dict[str, Any]) -> str:
    chain = summary["base_models"]
    data = ModelCardData(
        base_model=next((base for base in chain if "/" in base), None),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction"],
        trained_from=chain,
    )
    base_name = " → ".join(base.rpartition("/")[2] for base in chain)
    prompts = {kind: text for kind, text in model.prompts.items() if text}
    card = ModelCard.from_template(
        data, template_str=TEMPLATE, name=name, base_name=base_name, prompts=prompts,
        dimensions=model.get_embedding_dimension(), **summary,
    )  # fmt: skip
    return str(card)


def lineage(model_id: str) -> list[str]:
    """Return the names of a model and of those it was trained from, the oldest first: hub ids, and folders' bare names.

    What a folder was trained from stands in its card.
    """
    if model_id.removeprefix("local:").removeprefix("sentence-transformers/") == DEFAULT_MODEL:
        return [f"sentence-transformers/{DEFAULT_MODEL}"]
    found = resolve_model(model_id)
    if not Path(found).is_dir():
        return [found if "/" in found else f"sentence-transformers/{found}"]
    try:
        card = metadata_load(Path(found) / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        card = {}
    known = card.get("trained_from") or card.get("base_model") or []
    named = known if isinstance(known, list) else [known]
    return [*filter(re.compile(r"\w[\w.-]*(/[\w.-]+)?").fullmatch, map(str, named)), Path(found).resolve().name]
