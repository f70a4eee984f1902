import json

import numpy as np
import pytest

from nbutils.core import UserError
from nbutils.models.names import load_model, resolve_embed_model
from nbutils.models.vectors import encode, unit
from nbutils.training.adapter import AdapterFinetuneEngine
from nbutils.training.split import search_scores


@pytest.fixture(scope="module")
def trained(tiny, dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapter")
    seen = []
    engine = AdapterFinetuneEngine(
        dataset, tiny, root / "out", cache_folder=root / "cache", dev_fraction=0.25, learning_rate=0.02, batch_size=8,
        on_progress=seen.append,
    )  # fmt: skip
    engine.finetune()
    assert len(seen) == len(engine.history) - 1
    return engine


def test_it_learns_and_keeps_the_best_epoch(trained, dataset, tiny):
    summary, history = trained.summary, trained.history
    assert summary["kept"] == "fine-tuned" and summary["best"]["dev_ndcg@10"] > summary["base"]["dev_ndcg@10"]
    assert history.loc[history.step == summary["best_step"], "dev_ndcg@10"].item() == history["dev_ndcg@10"].max()
    asked = list(trained.dev_dataset.queries)
    base = search_scores(load_model(tiny, device="cpu"), dataset, asked)
    assert summary["base"]["dev_ndcg@10"] == pytest.approx(base["ndcg@10"], abs=1e-6)
    found = search_scores(trained.get_finetuned_model(), dataset, asked)
    assert summary["best"]["dev_ndcg@10"] == pytest.approx(found["ndcg@10"], abs=1e-6)
    assert str(trained.model_output_path.parent) not in json.dumps(summary)


def test_the_folder_is_read_by_a_line_of_numpy_and_by_llama_index(trained, tiny):
    ours, base = trained.get_finetuned_model(), resolve_embed_model(tiny)
    query = np.load(trained.model_output_path / "adapter.npy") @ np.array(base.get_query_embedding("net debt"))
    assert np.allclose(unit(query[None])[0], ours.get_query_embedding("net debt"), atol=1e-5)
    chunks = encode(load_model(tiny, device="cpu"), ["cash", "tax"])
    assert np.allclose(ours.get_text_embedding_batch(["cash", "tax"]), chunks, atol=1e-5)
    package = pytest.importorskip("llama_index.embeddings.adapter")
    theirs = package.AdapterEmbeddingModel(base, str(trained.model_output_path), device="cpu")
    assert np.allclose(theirs.get_query_embedding("net debt"), query, atol=1e-5)


def test_no_vector_is_asked_for_twice_and_the_same_seed_gives_the_same_map(trained, tiny, dataset, tmp_path):
    again = AdapterFinetuneEngine(
        dataset, resolve_embed_model(tiny), tmp_path / "out", cache_folder=trained.vectors.cache.file.parent,
        dev_fraction=0.25, learning_rate=0.02, batch_size=8,
    )  # fmt: skip
    again.finetune()
    assert again.vectors.cache.embedded == 0
    weights = [np.load(engine.model_output_path / "adapter.npy") for engine in (trained, again)]
    assert np.array_equal(*weights)


def test_options_of_the_other_engine_alone_and_a_missing_folder_are_refused(tiny, dataset, tmp_path):
    with pytest.raises(UserError, match="lora_rank"):
        AdapterFinetuneEngine(dataset, tiny, tmp_path / "out", lora_rank=4)
    with pytest.raises(UserError, match="no adapter"):
        AdapterFinetuneEngine(dataset, tiny, tmp_path / "out").get_finetuned_model()
