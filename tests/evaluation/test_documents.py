import numpy as np
from llama_index.core.schema import TextNode

from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.documents import document_metrics
from nbutils.evaluation.walkthrough import embed_dataset, evaluate, evaluate_st
from nbutils.models.search import Ranking
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

SOURCES = [("2022.pdf", 1), ("2022.pdf", 2), ("2023.pdf", 1), ("2023.pdf", 2)]
NODES = [
    TextNode(id_=str(i), text=f"Text {i}.", metadata={"file_name": file, "page": page})
    for i, (file, page) in enumerate(SOURCES)
]


def case(relevant):
    corpus = {node.node_id: node.text for node in NODES}
    queries = {str(i): "?" for i in range(len(relevant))}
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs=dict(zip(queries, relevant, strict=True))
    )


def test_the_right_document_and_the_same_page_of_another():
    index = np.array([[2, 0, 1, 3], [0, 2, 1, 3], [3, 2, 1, -1], [2, 3, 1, 0]])
    found = document_metrics(case([["0"]] * 4), Ranking(index, np.zeros(index.shape)), NODES, 2)
    assert {name: values.tolist() for name, values in found.items()} == {
        "right_file@1": [0, 1, 0, 0],
        "right_file@2": [1, 1, 0, 0],
        "wrong_file_same_page@2": [1, 0, 1, 1],
    }
    ranking = Ranking(index[:, :2], np.zeros((4, 2)))
    assert document_metrics(case([["0"]] * 4), ranking, NODES, 1).keys() == {"right_file@1", "wrong_file_same_page@1"}
    assert document_metrics(case([["0"]] * 4), ranking, None, 1) == {}


def test_headers_are_embedded_and_searched_and_tell_documents_apart(model, tmp_path):
    """The same passage in two years' reports: only the header, or the file's name, says which is meant."""
    text = "Revenue of the ferries rose, since more trucks crossed the strait than the year before."
    corpus, headers = {"a": text, "b": text}, {"a": "annual report 2022", "b": "annual report 2023"}
    queries, relevant = {"q": "ferry revenue 2023", "r": "ferry revenue 2022"}, {"q": ["b"], "r": ["a"]}
    nodes = [TextNode(id_=i, text=text, metadata={"file_name": headers[i], "page": 1}) for i in corpus]
    plain = EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)
    headed = plain.model_copy(update={"headers": headers})
    sets = {"plain": plain, "headed": headed}
    comparison = compare_models(sets, [model], nodes=nodes, cache=False, draws=50, verbose=False)
    means = comparison.table.set_index(["metric", "question_set", "system"]).value
    for system in comparison.rankings["plain"]:
        named = 1 if system.endswith(" + BM25") else 0.5  # without headers only a hybrid sees the files' names
        assert means["right_file@1", "plain", system] == named and means["right_file@1", "headed", system] == 1
        assert means["wrong_file_same_page@5", "headed", system] == 0
    bare = {f"{comparison.base}, no headers", f"{comparison.base}, no headers + BM25"}
    assert set(comparison.rankings["headed"]) == {*comparison.rankings["plain"], *bare}
    assert {means["right_file@1", "headed", system] for system in bare} == {0.5, 1}
    assert "right_file@5" in comparison.summary()
    assert not np.allclose(*embed_dataset(headed, model, cache=False)[1])
    assert [row["retrieved"][0] for row in evaluate(headed, model, cache=False)] == ["b", "a"]
    assert evaluate_st(headed, model, "x", output_path=tmp_path, cache=False)["x_cosine_mrr@10"] == 1
