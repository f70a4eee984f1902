import pytest

from nbutils.core import UserError
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.options import TrainingOptions


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
    assert TrainingOptions.of().settled(chunks).batch_size == size
    assert TrainingOptions.of(batch_size=10).settled(chunks).batch_size == 10
    assert TrainingOptions.of(loss=dict).settled(chunks).batch_size == 32, "pairs, not chunks"
