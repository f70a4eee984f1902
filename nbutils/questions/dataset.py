"""The (question, chunk) pairs in the walkthrough's own JSON format."""

import copy
import json
import operator
from collections.abc import Container, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from nbutils.core import UserError, write_atomic
from nbutils.corpus.files import document_name

if TYPE_CHECKING:
    from llama_index.core.schema import BaseNode


class EmbeddingQAFinetuneDataset(BaseModel):
    """Questions, chunks, and which chunk answers which question.

    The JSON it saves and loads is that of `llama_index.finetuning.EmbeddingQAFinetuneDataset`; importing that
    class would pull in a package that is deprecated upstream, so this one stands in its place.

    Args:
        queries: question id -> question.
        corpus: chunk id -> text of the chunk.
        relevant_docs: question id -> ids of the chunks that answer it, or id -> grade (which LlamaIndex can't read).
        mode: always "text".
        headers: chunk id -> what stands before the chunk where it is embedded (see `load_corpus`); saved if there is any.
        names: chunk id -> the name of its document, by which hybrid search finds it; training puts it before some
            queries, as people do who ask about one of several documents. Saved if there is any.
        account: what was asked, kept, dropped and spent (an `Account`) where the questions were generated just now.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant_docs: dict[str, list[str] | dict[str, float]]
    mode: str = "text"
    headers: dict[str, str] = Field(default={}, exclude_if=operator.not_)
    names: dict[str, str] = Field(default={}, exclude_if=operator.not_)
    account: Any = Field(default=None, exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EmbeddingQAFinetuneDataset) and self.model_dump() == other.model_dump()

    @property
    def query_docid_pairs(self) -> list[tuple[str, list[str]]]:
        """Each question with the ids of its relevant chunks."""
        return [(query, list(self.relevant_docs[query_id])) for query_id, query in self.queries.items()]

    def passages(self) -> dict[str, str]:
        """Return what is embedded of each chunk: chunk id -> header and text, on lines of their own."""
        return {chunk_id: headed(self.headers.get(chunk_id, ""), text) for chunk_id, text in self.corpus.items()}

    def save_json(self, path: str | Path) -> None:
        """Write the dataset to `path`, whole or not at all."""
        write_atomic(path, json.dumps(self.model_dump(), indent=4))

    @classmethod
    def from_json(cls, path: str | Path) -> "EmbeddingQAFinetuneDataset":
        """Read a dataset written by this class or by LlamaIndex.

        Raises:
            UserError: there is no such file, or it holds no such dataset.
        """
        try:
            dataset = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from error
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is no question dataset: it needs 'queries', 'corpus' and 'relevant_docs'. "
                "Run 02_generate_questions again to write it anew."
            ) from error
        return dataset.check(str(path))

    def check(self, name: str = "the dataset") -> "EmbeddingQAFinetuneDataset":
        """Return the dataset after making sure that every question points to a chunk it holds.

        Raises:
            UserError: a question without a relevant chunk, or one that points nowhere.
        """
        for query_id in self.queries:
            ids = self.relevant_docs.get(query_id, ())
            if not ids or not self.corpus.keys() >= set(ids):
                raise UserError(
                    f"Question {query_id} in {name} points to no chunk of the corpus. Remove it or add its chunk."
                )
        return self


def headed(header: str, text: str) -> str:
    """Return what is embedded of a chunk: its header, if it has one, and its text below."""
    return f"{header}\n{text}" if header else text


def headers_of(nodes: "Iterable[BaseNode]") -> dict[str, str]:
    """Return the headers of the nodes that have one, by id."""
    return {node.node_id: node.metadata["header"] for node in nodes if node.metadata.get("header")}


def names_of(nodes: "Iterable[BaseNode]") -> dict[str, str]:
    """Return the name of each node's document by the node's id."""
    return {node.node_id: document_name(node.metadata["file_name"]) for node in nodes if node.metadata.get("file_name")}


def passages(dataset: Any) -> dict[str, str]:
    """Return what is embedded of each chunk, by its id, of a dataset of this class or of LlamaIndex's."""
    return dataset.passages() if hasattr(dataset, "passages") else dict(dataset.corpus)


def with_queries(dataset: Any, kept: Container[str]) -> Any:
    """Return a copy of the dataset with only these queries, and all its chunks."""
    rest = copy.copy(dataset)
    rest.queries = {key: text for key, text in dataset.queries.items() if key in kept}
    rest.relevant_docs = {key: dataset.relevant_docs[key] for key in rest.queries}
    return rest


def merged(*datasets: EmbeddingQAFinetuneDataset) -> EmbeddingQAFinetuneDataset:
    """Return one dataset with the questions and chunks of all, a question about the same chunks once.

    The account is the first dataset's. Where two datasets use one id for different questions, the second gets a new id.
    """
    account = getattr(datasets[0], "account", None)
    whole, seen = EmbeddingQAFinetuneDataset(queries={}, corpus={}, relevant_docs={}, account=account), set()
    for number, data in enumerate(datasets):
        whole.corpus |= data.corpus
        whole.headers |= getattr(data, "headers", {})
        whole.names |= getattr(data, "names", {})
        for query_id, query in data.queries.items():
            relevant = data.relevant_docs[query_id]
            pair = (query.casefold(), tuple(sorted(relevant)))
            if pair not in seen:
                seen.add(pair)
                new = f"{query_id}-{number}" if query_id in whole.queries else query_id
                whole.queries[new], whole.relevant_docs[new] = query, relevant
    return whole
