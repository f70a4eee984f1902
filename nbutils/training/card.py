"""The model card: where the model comes from, how to use it, its recipe, its results, its limits."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load

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


def model_card(model: "SentenceTransformer", name: str, summary: dict[str, Any]) -> str:
    """Return the card of a fine-tuned model, in Markdown with a YAML head.

    Args:
        model: the fine-tuned model.
        name: of the fine-tuned model.
        summary: the engine's.
    """
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

    Args:
        model_id: as for `resolve_model`. What a folder was trained from stands in its card.
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
