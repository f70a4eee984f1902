import itertools

import pytest

from nbutils.core import UserError
from nbutils.evaluation.curve import curve_of_run, learning_curve
from nbutils.models.names import DEFAULT_MODEL, packaged_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.options import TrainingOptions

CHUNKS = [f"c{i:02}" for i in range(80)]
DATA = EmbeddingQAFinetuneDataset(
    queries={f"{chunk}.{i}": f"question {i} about {chunk}" for chunk in CHUNKS for i in (1, 2)},
    corpus={chunk: f"text of {chunk}" for chunk in CHUNKS},
    relevant_docs={f"{chunk}.{i}": [chunk] for chunk in CHUNKS for i in (1, 2)},
    headers=dict.fromkeys(CHUNKS, "report"),
)


def memory(part: EmbeddingQAFinetuneDataset) -> frozenset[str]:
    """A model that knows by heart what it was trained on."""
    return frozenset(part.corpus)


def recall(known: frozenset[str]) -> list[float]:
    return [float(chunk in known) for chunk in CHUNKS]


def test_parts_are_nested_hold_whole_chunks_and_end_with_all():
    parts = []
    learning_curve(DATA, lambda part: parts.append(part) or memory(part), recall, frozenset())
    assert [len(part.corpus) for part in parts] == [10, 20, 40, 80]
    for part, larger in itertools.pairwise(parts):
        assert part.corpus.items() < larger.corpus.items()
    for part in parts:
        assert len(part.queries) == 2 * len(part.corpus) and part.headers.keys() == part.corpus.keys()
    assert parts[-1] == DATA


def test_a_curve_that_rises_says_that_more_documents_would_help():
    table, sentence = learning_curve(DATA, memory, recall, frozenset())
    assert list(table.score) == [0, 0.125, 0.25, 0.5, 1]
    assert (table.low <= table.score).iloc[1:].all() and (table.high >= table.score).iloc[1:].all()
    assert sentence.startswith("More documents would probably help: from 40 to 80 chunks")


def test_a_flat_curve_says_that_more_would_hardly_help_and_a_wavering_one_that_it_may():
    _, sentence = learning_curve(DATA, memory, lambda known: [0.7] * 150, frozenset())
    assert "would hardly help" in sentence and "150 questions" in sentence
    _, sentence = learning_curve(DATA, memory, lambda known: [0.7] * 50, frozenset())
    assert "may or may not help" in sentence, "a few questions that do not move prove nothing"
    coin = {0: 0, 40: 0, 80: 1}  # at the end as many questions change for the better as for the worse
    _, sentence = learning_curve(
        DATA, memory, lambda known: [(i + coin[len(known)]) % 2 for i in range(50)], frozenset(), (0.5, 1)
    )
    assert "may or may not help" in sentence


def test_questions_about_one_chunk_count_together():
    narrow, wide = (
        learning_curve(DATA, memory, recall, frozenset(), clusters=clusters)[0]
        for clusters in (None, [chunk[:2] for chunk in CHUNKS])
    )
    assert (wide.high - wide.low).iloc[3] != (narrow.high - narrow.low).iloc[3]


@pytest.mark.parametrize("fractions", [(0.001,), (0, 1), (2,)])
def test_a_fraction_that_cannot_be_is_refused_before_any_training(fractions):
    with pytest.raises(UserError, match="fractions is"):
        learning_curve(DATA, None, None, None, fractions)


@pytest.mark.slow
def test_a_run_trains_three_parts_anew_and_takes_its_own_model_for_all(some, capsys):
    recipe = TrainingOptions(epochs=1, batch_size=8, dev_fraction=0.25, learning_rate=1e-3).recipe()
    training = {"recipe": recipe, "max_seq_length": 32, "seconds": 480.0}
    table, sentence = curve_of_run(some, some, DEFAULT_MODEL, packaged_model(), training, metric="mrr@10")
    assert list(table.chunks) == [0, 3, 6, 12, 24]
    assert "take about 7.0 minutes" in capsys.readouterr().out
    assert table.score.iloc[4] == table.score.iloc[0] and "from 12 to 24 chunks" in sentence
    with pytest.raises(UserError, match="ENGINE nbutils"):
        curve_of_run(some, some, DEFAULT_MODEL, packaged_model(), {"recipe": {"engine": "llama-index"}})
