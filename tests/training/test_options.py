import pytest

from nbutils.core import UserError
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.options import BORROWED_BLEND, TrainingOptions
from nbutils.training.split import TrainingPairs


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("batch_size", 1), ("blend", 2), ("learning_rate", 0), ("dev_fraction", 1), ("shortest", 0), ("epochs", "many"),
        ("matryoshka_dims", (0,)), ("warmup", 3),
    ],
)  # fmt: skip
def test_a_bad_option_is_named(option, value):
    with pytest.raises(UserError, match=option):
        SentenceTransformersFinetuneEngine(None, **{option: value})


def test_the_recipe_names_the_loss_and_no_path():
    recipe = TrainingOptions.of(loss=dict, device="cpu").recipe()
    assert recipe["loss"] == "dict" and recipe["epochs"] == 2 and "device" not in recipe


@pytest.mark.parametrize(("chunks", "size"), [(2, 32), (1023, 32), (1024, 64), (2047, 64), (2048, 128), (90_000, 128)])
def test_the_batch_grows_with_the_chunks_unless_it_is_given(chunks, size):
    pairs = TrainingPairs(["why?"], ["text"] * chunks, [""] * chunks, [[0]], {chunk: [0] for chunk in range(chunks)})
    assert TrainingOptions.of().settled(pairs).batch_size == size
    assert TrainingOptions.of(batch_size=10).settled(pairs).batch_size == 10
    assert TrainingOptions.of(loss=dict).settled(pairs).batch_size == 32, "pairs, not chunks"


@pytest.mark.parametrize(
    ("queries", "borrowed", "blend"),
    [
        (["The FERRY, was late", "harbour dues", "Fähre"], 1, BORROWED_BLEND),
        (["why was the ferry late", "harbour dues", "Fahre"], 2 / 3, BORROWED_BLEND),
        (["why was the ferry late", "what do ports charge", "Fähre"], 1 / 3, 1),
    ],
)
def test_models_of_queries_in_their_chunks_own_words_are_blended_with_the_base(queries, borrowed, blend):
    chunks = ["The ferry was late.", "Harbour dues were paid.", "Die Fähre kam an."]
    pairs = TrainingPairs(queries, chunks, [""] * 3, [[0], [1], [2]], {0: [0], 1: [1], 2: [2]})
    assert pairs.borrowed == pytest.approx(borrowed)
    assert TrainingOptions.of().settled(pairs).blend == blend
    assert TrainingOptions.of(blend=0.3).settled(pairs).blend == 0.3
