"""The model card: where the model comes from, how to use it, its recipe, its results, its limits."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from sentence_transformers import SentenceTransformer

from nbutils.models.names import DEFAULT_MODEL, resolve_model

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


def model_card(model: SentenceTransformer, model_id: str, name: str, summary: dict[str, Any]) -> str:
    """Return the card of a fine-tuned model, in Markdown with a YAML head.

    Args:
        model: the fine-tuned model.
        model_id: its base, as the engine was given it; a folder's path is not told.
        name: of the fine-tuned model.
        summary: the engine's.
    """
    data = ModelCardData(
        base_model=hub_id(model_id),
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "sentence-similarity", "feature-extraction"],
    )
    base_name = (hub_id(model_id) or Path(resolve_model(model_id)).name).rpartition("/")[2]
    prompts = {kind: text for kind, text in model.prompts.items() if text}
    card = ModelCard.from_template(
        data, template_str=TEMPLATE, name=name, base_name=base_name, prompts=prompts,
        dimensions=model.get_embedding_dimension(), **summary,
    )  # fmt: skip
    return str(card)


def hub_id(model_id: str) -> str | None:
    """Return the name of a model on the Hugging Face hub, or None for a folder."""
    if model_id.removeprefix("local:").removeprefix("sentence-transformers/") == DEFAULT_MODEL:
        return f"sentence-transformers/{DEFAULT_MODEL}"
    found = resolve_model(model_id)
    if Path(found).is_dir():
        return None
    return found if "/" in found else f"sentence-transformers/{found}"
