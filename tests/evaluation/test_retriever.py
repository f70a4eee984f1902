import pytest
from llama_index.core.schema import QueryBundle, TextNode

from nbutils.core import UserError
from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.retriever import HybridRetriever
from nbutils.models.names import DEFAULT_MODEL, load_model, resolve_embed_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, headers_of, names_of


def test_the_retriever_finds_what_the_hybrid_row_of_a_comparison_found(tmp_path):
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
    nodes.append(TextNode(id_="loose", text="A chunk of no file", metadata={"file_name": None}))
    questions = ["What did the harbour pay its sailors in FY2023?", "ticket prices", "borrowings 2024"]
    dataset = EmbeddingQAFinetuneDataset(
        queries={str(i): question for i, question in enumerate(questions)},
        corpus={node.node_id: node.text for node in nodes},
        relevant_docs={str(i): [nodes[0].node_id] for i in range(len(questions))},
        headers=headers_of(nodes),
        names=names_of(nodes),
    )
    model = load_model(DEFAULT_MODEL)
    rows = compare_models(dataset, {"base": model}, cache=tmp_path, verbose=False).per_query
    expected = rows[rows.system == "base + BM25"].retrieved.tolist()
    for each in (model, DEFAULT_MODEL, resolve_embed_model(DEFAULT_MODEL)):
        retriever = HybridRetriever(nodes, each, top_k=5, cache=tmp_path)
        found = [[hit.node.node_id for hit in retriever.retrieve(question)] for question in questions]
        assert found == [ids[:5] for ids in expected]
    assert found[0][0] == "harbour-2023-Wages of the crew" and found[2][0].endswith("2024-Loans")
    unnamed = dataset.model_copy(update={"names": {}})
    rows = compare_models(unnamed, {"base": model}, nodes=nodes, cache=tmp_path, verbose=False).per_query
    assert rows[rows.system == "base + BM25"].retrieved.tolist() == expected

    one, other = (retriever.retrieve(QueryBundle("?", custom_embedding_strs=each)) for each in (["fares"], ["loans"]))
    both = retriever.retrieve(QueryBundle("?", custom_embedding_strs=["fares", "loans"]))
    topics = [{hit.node.node_id.split("-")[-1] for hit in hits[:4]} for hits in (one, other, both)]
    assert topics == [{"Fares"}, {"Loans"}, {"Fares", "Loans"}]
    with pytest.raises(UserError, match="no chunk"):
        HybridRetriever([], model)
    with pytest.raises(UserError, match="top_k"):
        HybridRetriever(nodes, model, top_k=0)
