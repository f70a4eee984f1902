"""Which prompt belongs to which chunk, and where its answers are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.utils import get_tokenizer

from nbutils.core import UserError, content_hash
from nbutils.questions.ask import Request
from nbutils.questions.dataset import headers_of, names_of
from nbutils.questions.filters import skip_reason
from nbutils.questions.llms import llm_signature
from nbutils.questions.prompts import render_prompt
from nbutils.questions.settings import QuestionSettings
from nbutils.questions.store import Answer

TOKENS_PER_QUESTION = 22
STORE = "answers.sqlite"


@dataclass
class Plan:
    """The LLM to ask, and of each chunk, by its id: text, why it is not asked about, or its request, header and document.

    Requests of chunks of the same text have the same key. An LLM that learns from the corpus has.
    """

    llm: object
    texts: dict[str, str]
    skipped: dict[str, str]
    requests: dict[str, Request]
    headers: dict[str, str]
    names: dict[str, str]

    @cached_property
    def by_key(self) -> dict[str, Request]:
        """Each request by its key."""
        return {request.key: request for request in self.requests.values()}

    @cached_property
    def owners(self) -> dict[str, list[str]]:
        """The chunk ids of each request, the one that stands for all first."""
        owners: dict[str, list[str]] = {}
        for chunk_id, request in self.requests.items():
            owners.setdefault(request.key, []).append(chunk_id)
        return owners

    def missing(self, answers: Mapping[str, Answer]) -> list[Request]:
        """Return the requests without an answer, or with a failed one."""
        return [request for key, request in self.by_key.items() if key not in answers or answers[key].error]


def make_plan(nodes: Sequence[BaseNode], llm, template, settings: QuestionSettings) -> Plan:
    """Return what to ask about each chunk; raises a UserError if there is none, or the prompt has no place for it."""
    if not nodes:
        raise UserError("There is no chunk to ask about. Run 01_build_corpus first, or check its input files.")
    template = getattr(template, "template", template)
    texts = {node.node_id: node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes}
    examples = settings.examples
    if learns_from_corpus(llm):
        llm = llm.model_copy(update={"examples": examples} if examples else None).fit(texts.values())
        examples = ()  # a writer learns from them, it reads none
    signature, number = llm_signature(llm), settings.num_questions_per_chunk
    skipped, requests = {}, {}
    for chunk_id, text in texts.items():
        if reason := skip_reason(text, settings.applied_filters) if number else "not asked about":
            skipped[chunk_id] = reason
        else:
            prompt = render_prompt(template, text, number, settings.language, settings.seed, examples)
            requests[chunk_id] = Request(content_hash(prompt, signature, str(number), length=32), prompt)
    return Plan(llm, texts, skipped, requests, headers_of(nodes), names_of(nodes))


def learns_from_corpus(llm) -> bool:
    """Whether an LLM is a writer that learns from the corpus (`offline`)."""
    return callable(getattr(llm, "fit", None)) and hasattr(llm, "model_copy")


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text with LlamaIndex's tokenizer."""
    return len(get_tokenizer()(text))


def store_path(output_path: Path, settings: QuestionSettings) -> Path:
    """Return the file of answers that belongs to a dataset."""
    store = settings.store or output_path.parent / STORE
    if output_path.is_dir() or store == output_path:
        raise UserError(f"output_path is {output_path}; name a file that ends in .json.")
    return store
