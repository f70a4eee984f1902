import numpy as np
import pandas as pd
import pytest

from nbutils.core import UserError
from nbutils.evaluation.forgetting import Forgetting, check_forgetting, load_general_knowledge
from nbutils.evaluation.leaks import wording_overlap
from nbutils.models.names import DEFAULT_MODEL, load_model


def test_the_general_set_is_large_varied_and_hard_enough():
    dataset = load_general_knowledge()
    assert len(dataset.corpus) >= 200 and len(dataset.queries) >= 200
    assert len({chunk.rpartition("-")[0] for chunk in dataset.corpus}) >= 40
    assert len(set(dataset.corpus.values())) == len(dataset.corpus)
    assert wording_overlap(dataset).mean() < 0.2


def damaged(model_name=DEFAULT_MODEL):
    model = load_model(model_name)
    weight = model.transformers_model.embeddings.word_embeddings.weight
    rng = np.random.default_rng(0)
    noise = rng.normal(size=tuple(weight.shape), scale=float(weight.data.std()) * 3).astype(np.float32)
    weight.data += weight.data.new_tensor(noise)
    return model


@pytest.mark.slow
def test_forgetting_is_called_out_and_can_fail_the_run(general, model):
    same = check_forgetting(model, model, datasets={"general": general})
    assert not same.forgot and (same.table.difference == 0).all() and "ruled out" in str(same)
    same.stop_if_forgot()
    worse = damaged()
    result = check_forgetting(model, worse, datasets={"general": general})
    assert result.forgot and result.table.difference.item() < -0.03 and "forgot" in str(result)
    with pytest.raises(UserError, match="forgot what the base knew"):
        result.stop_if_forgot()


@pytest.mark.slow
def test_nanobeir_without_a_hub_is_left_out_with_a_note(general, model):
    result = check_forgetting(model, model, datasets={"general": general}, nanobeir=True)
    assert len(result.table) == 1 and "NanoBEIR was left out" in result.notes[0] and result.notes[0] in str(result)


def test_a_drop_within_its_interval_is_not_forgetting():
    row = {"set": "a", "base": 0.8, "tuned": 0.76, "difference": -0.04, "low": -0.09, "high": 0.01, "p": 0.2}
    unsure = Forgetting(pd.DataFrame([row | {"questions": 50}]), 0.03, "ndcg@10")
    assert not unsure.forgot and "not shown, nor ruled out" in str(unsure)
    unsure.stop_if_forgot()
    sure = Forgetting(unsure.table.assign(low=-0.06, high=-0.035), 0.03, "ndcg@10")
    assert sure.forgot


@pytest.mark.slow
def test_the_intervals_of_many_sets_hold_together(general, model):
    half = general.model_copy(update={"queries": dict(list(general.queries.items())[::2])})
    other = load_model(DEFAULT_MODEL, max_seq_length=24)
    one = check_forgetting(model, other, datasets={"half": half}).table.iloc[0]
    many = check_forgetting(model, other, datasets={"half": half} | {str(i): general for i in range(4)}).table.iloc[0]
    assert many.difference == one.difference != 0
    assert many.low < one.low and many.high > one.high
