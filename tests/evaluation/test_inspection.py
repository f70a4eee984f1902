import pytest
from llama_index.core.schema import TextNode

from nbutils.core import UserError
from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.inspection import (
    examples_html,
    map_points,
    question_attributes,
    question_style,
    similarities,
    size_curve,
    slices,
    wins_and_losses,
)
from nbutils.evaluation.walkthrough import embed_dataset, evaluate


@pytest.fixture(scope="module")
def comparison(general, model):
    return compare_models({"synthetic": general}, {"base": model, "other": model}, verbose=False, draws=100)


def test_wins_and_losses_show_texts_and_escape_them(comparison):
    frame = wins_and_losses(comparison, "synthetic", "BM25")
    assert {"win", "loss"} == set(frame.outcome)
    assert (frame[frame.outcome == "win"].change > 0).all() and (frame[frame.outcome == "loss"].change < 0).all()
    corpus = comparison.datasets["synthetic"].corpus
    assert (frame.expected_text == frame.expected.map(corpus)).all()
    nasty = frame.head(1).assign(question="<script>alert(1)</script>", first_text='<img src=x onerror="alert(1)">')
    shown = examples_html(nasty).data
    assert "<script>" not in shown and "<img" not in shown and "&lt;script&gt;" in shown
    with pytest.raises(UserError, match="no system"):
        wins_and_losses(comparison, "synthetic", "nobody")


@pytest.mark.parametrize(
    ("question", "style"),
    [
        ("How many ships sail?", "how many"),
        ("How does it sail?", "how"),
        ("In which year was it founded?", "which"),
        ("Did profit rise?", "yes or no"),
        ("profit 2021", "no question word"),
        ("Whose money was it?", "who"),
        ("", "no question word"),
    ],
)
def test_question_style(question, style):
    assert question_style(question) == style


def test_slices_split_the_questions_and_agree_with_the_whole(comparison):
    dataset = comparison.datasets["synthetic"]
    nodes = [
        TextNode(id_=chunk, text=text, metadata={"file_name": f"{i % 2}.pdf", "page": i + 1})
        for i, (chunk, text) in enumerate(dataset.corpus.items())
    ]
    frame = slices(comparison, nodes, "synthetic", "BM25")
    assert set(frame.slice) == {"document", "page region", "question style", "question length"}  # none has a number
    whole = comparison.differences.query("question_set == 'synthetic' and system == 'BM25' and metric == 'mrr@10'")
    for _, part in frame.groupby("slice"):
        assert part.questions.sum() == len(dataset.queries)
        mean = (part.difference * part.questions).sum() / part.questions.sum()
        assert mean == pytest.approx(whole.difference.item())
    assert "document" not in question_attributes(dataset)
    for node in nodes:
        node.metadata["file_name"] = "only.pdf"
    assert "document" not in set(slices(comparison, nodes, "synthetic", "BM25").slice)


@pytest.mark.slow
def test_similarities_map_and_size_curve(general, model):
    near = similarities(general, model)
    hits = [row["is_hit"] for row in evaluate(general, model, top_k=1)]
    assert ((near.right > near.wrong).to_numpy() == hits).all()
    points = map_points(general, model)
    assert points.kind.value_counts().to_dict() == {"chunk": 60, "question": 60}
    sizes = size_curve(general, {"base": model}, [32, 384, 5000])
    assert set(sizes.dimensions) == {32, 384} and len(sizes) == 6
    bytes_ = sizes.set_index(["dimensions", "precision"]).bytes
    assert (bytes_[384, "float32"], bytes_[384, "int8"], bytes_[384, "binary"]) == (1536, 384, 48)
    values = sizes.set_index(["dimensions", "precision"]).value
    queries, corpus = embed_dataset(general, model)
    assert queries.shape == corpus.shape == (60, 384)
    assert values[384, "float32"] > values[32, "binary"]
    assert values[384, "int8"] == pytest.approx(values[384, "float32"], abs=0.02)
