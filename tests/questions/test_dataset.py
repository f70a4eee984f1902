"""Datasets that LlamaIndex reads too."""

import json
import warnings

import pytest
from openai_server import serving
from question_helpers import (
    make_llm,
    make_nodes,
)

from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, merged
from nbutils.questions.generate import generate_qa_embedding_pairs


@pytest.mark.slow
def test_upstream_reads_what_is_written(out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        upstream = pytest.importorskip("llama_index.finetuning")
    with serving() as server:
        dataset = generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url), output_path=out, verbose=False)
    assert upstream.EmbeddingQAFinetuneDataset.from_json(str(out)).query_docid_pairs == dataset.query_docid_pairs


def test_a_dataset_of_any_text_is_written_as_llamaindex_writes_it(out):
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "Wie groß? \ud800"}, corpus={"c": "収入 \ud800"}, relevant_docs={"q": ["c"]}
    )
    dataset.save_json(out)
    assert EmbeddingQAFinetuneDataset.from_json(out) == dataset
    assert out.read_text(encoding="ascii") == json.dumps(dataset.model_dump(), indent=4)


def test_headers_stand_before_the_chunks_that_have_one(out):
    dataset = EmbeddingQAFinetuneDataset(queries={}, corpus={"a": "one", "b": "two"}, relevant_docs={})
    dataset.save_json(out)
    assert "headers" not in json.loads(out.read_text()) and dataset.passages() == dataset.corpus
    dataset = dataset.model_copy(update={"headers": {"b": "Report"}})
    dataset.save_json(out)
    assert EmbeddingQAFinetuneDataset.from_json(out).passages() == {"a": "one", "b": "Report\ntwo"}
    nodes = make_nodes(2)
    nodes[1].metadata["header"] = "Report"
    generated = generate_qa_embedding_pairs(nodes, "offline", output_path=out, verbose=False)
    assert generated.headers == {nodes[1].id_: "Report"}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a_2023.pdf", "b/b__2024.pdf", "c.pdf"], ["a 2023", "b/b 2024", "c"]),
        (["", "", ""], []),
    ],
)
def test_chunks_keep_their_documents_names(out, files, names):
    nodes = make_nodes(3)
    for node, file in zip(nodes, files, strict=True):
        node.metadata["file_name"] = file
    generated = generate_qa_embedding_pairs(nodes, "offline", output_path=out, verbose=False)
    assert list(generated.names.values()) == names and ("names" in json.loads(out.read_text())) == bool(names)
    assert EmbeddingQAFinetuneDataset.from_json(out).names == merged(generated, generated).names == generated.names


def test_merged_datasets_hold_each_question_about_the_same_chunks_once():
    first = EmbeddingQAFinetuneDataset(
        queries={"q": "When?", "r": "Why?"}, corpus={"a": "A"}, relevant_docs={"q": ["a"], "r": ["a"]}
    )
    second = EmbeddingQAFinetuneDataset(
        queries={"q": "where?", "s": "when?", "t": "When?"},
        corpus={"a": "A", "b": "B"},
        relevant_docs={"q": ["b"], "s": ["a"], "t": ["b"]},
        headers={"b": "Report"},
    )
    whole = merged(first, second)
    assert sorted(whole.queries.values()) == ["When?", "When?", "Why?", "where?"]
    assert whole.check().corpus == {"a": "A", "b": "B"}
    assert whole.passages()["b"] == "Report\nB"
    assert first.queries == {"q": "When?", "r": "Why?"} and first.headers == {}
