import numpy as np
import pytest
from llama_index.core.schema import TextNode

from nbutils.models.hybrid import HybridRetriever, NamedDocuments, fuse
from nbutils.models.search import Ranking


def test_fusion_is_the_formula():
    dense = Ranking(np.array([[0, 1, 2]]), np.array([[3.0, 2, 1]]))
    lexical = Ranking(np.array([[2, 1, -1]]), np.array([[2.0, 1, -np.inf]]))
    fused = fuse([dense, lexical], list("abc"))
    assert fused.score[0].tolist() == pytest.approx([1 / 63 + 1 / 61, 2 / 62, 1 / 61])
    assert fused.index[0].tolist() == [2, 1, 0]
    assert fuse([dense], list("abc")).index.tolist() == dense.index.tolist()
    assert fuse([dense, lexical], list("abc"), 1).index.tolist() == [[2]]


def test_documents_are_named_by_words_that_not_every_name_has():
    names = ["harbour report 2023", "harbour report 2024", "ferry report 2024", "ferry report 2024"]
    named = NamedDocuments(names)
    year, company, every, stop = named.scores(["In FY2024?", "The harbour's fares", "a report", "What of the dog?"])
    assert year.tolist() == pytest.approx([0, *[np.log(3 / 2)] * 3])
    assert company.tolist() == pytest.approx([np.log(3 / 2)] * 2 + [0, 0])
    assert not every.any() and not stop.any()
    assert not NamedDocuments(["harbour", "harbour"]).scores(["the harbour"]).any()


def test_chunks_of_the_best_named_document_come_first_and_by_their_vectors():
    corpus = np.eye(4, dtype=np.float32)
    query = np.array([[0.9, 0.1, 0.2, 0.3]], dtype=np.float32)
    named = NamedDocuments(["isle", "harbour 2023", "harbour 2024", "harbour 2024"])
    found = named.search(["harbour in 2024", "anything"], np.concatenate([query, query]), corpus, list("abcd"))
    assert found.index.tolist() == [[3, 2, 1, -1], [-1, -1, -1, -1]]
    backwards = named.search(["harbour"], -query, corpus, list("abcd"), depth=2)
    assert backwards.index.tolist() == [[1, 2]]


def test_the_retriever_finds_what_the_hybrid_row_of_a_comparison_found(tmp_path):
    from nbutils.evaluation.compare import compare_models
    from nbutils.models.names import DEFAULT_MODEL, load_model, resolve_embed_model
    from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, names_of

    nodes = [
        TextNode(
            id_=f"{place}-{year}-{topic}",
            text=f"{topic} of the {place}: {number}",
            metadata={"file_name": f"{place}_{year}.pdf", "header": f"{place} {year}"},
            excluded_embed_metadata_keys=["file_name"],
            text_template="{metadata_str}\n{content}",
            metadata_template="{value}",
        )
        for number, (place, year, topic) in enumerate(
            (place, year, topic)
            for place in ("harbour", "isle")
            for year in (2023, 2024)
            for topic in ("Fares", "Wages of the crew", "Loans")
        )
    ]
    questions = ["What did the harbour pay its sailors in FY2023?", "ticket prices", "borrowings 2024"]
    dataset = EmbeddingQAFinetuneDataset(
        queries={str(i): question for i, question in enumerate(questions)},
        corpus={node.node_id: node.text for node in nodes},
        relevant_docs={str(i): [nodes[0].node_id] for i in range(len(questions))},
        headers={node.node_id: node.metadata["header"] for node in nodes},
        names=names_of(nodes),
    )
    model = load_model(DEFAULT_MODEL)
    rows = compare_models(dataset, {"base": model}, cache=tmp_path, verbose=False).per_query
    expected = rows[rows.system == "base + BM25"].retrieved.tolist()
    for each in (model, resolve_embed_model(DEFAULT_MODEL)):
        retriever = HybridRetriever(nodes, each, top_k=5, cache=tmp_path)
        found = [[hit.node.node_id for hit in retriever.retrieve(question)] for question in questions]
        assert found == [ids[:5] for ids in expected]
    assert found[0][0] == "harbour-2023-Wages of the crew" and found[2][0].endswith("2024-Loans")
