import json
from pathlib import Path

import numpy as np
import pytest
from retrieval_examples import Words
from sentence_transformers import SentenceTransformer

from nbutils.core import UserError
from nbutils.models.names import load_model, load_tokenizer, reading_length, resolve_embed_model
from nbutils.models.vectors import EmbeddingCache, encode, unit
from nbutils.training.adapter import AdapterFinetuneEngine
from nbutils.training.deploy import continue_on_all
from nbutils.training.engine import SentenceTransformersFinetuneEngine
from nbutils.training.split import search_scores

pytestmark = pytest.mark.slow


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
    with pytest.raises(UserError, match="no option 'lora_rank'"):
        AdapterFinetuneEngine(dataset, tiny, tmp_path / "out", lora_rank=4)
    with pytest.raises(UserError, match="no adapter"):
        AdapterFinetuneEngine(dataset, tiny, tmp_path / "out").get_finetuned_model()


def test_the_folder_is_a_model_like_any_other_whose_chunks_are_in_the_cache_already(trained, dataset, tiny):
    folder, queries = trained.model_output_path, list(dataset.queries.values())
    model, store = load_model(folder, device="cpu"), EmbeddingCache(trained.vectors.cache.file.parent)
    found = [
        store.embed(model, texts, kind)
        for texts, kind in ((list(dataset.corpus.values()), "document"), (queries, "query"))
    ]
    assert store.embedded == 0
    base = load_model(tiny, device="cpu")
    assert np.allclose(found[0], encode(base, list(dataset.corpus.values())), atol=1e-5)
    assert np.allclose(found[1], unit(encode(base, queries, "query") @ np.load(folder / "adapter.npy").T), atol=1e-5)
    plain = SentenceTransformer(str(folder), device="cpu")
    assert np.allclose(plain.encode_query(queries), found[1], atol=1e-5)
    with pytest.raises(ValueError, match="task"):  # nobody gets a query's vector without its map
        plain.encode(queries)
    theirs = resolve_embed_model(folder)
    assert np.allclose(theirs.get_query_embedding(queries[0]), found[1][0], atol=1e-5)
    assert reading_length(folder) == 64 and len(load_tokenizer(folder)) == len(base.tokenizer)
    with pytest.raises(UserError, match="an adapter"):
        SentenceTransformersFinetuneEngine(dataset, folder, folder.parent / "none")


def test_on_all_documents_training_goes_on_from_the_first_map(trained, dataset, tiny, tmp_path):
    first, again = np.load(trained.model_output_path / "adapter.npy"), tmp_path / "again"
    with pytest.warns(UserWarning, match="base model is kept"):
        continue_on_all(trained, dataset, output_path=again, epochs=0)
    assert np.allclose(np.load(again / "adapter.npy"), first, atol=1e-6)
    deployed = continue_on_all(trained, dataset, output_path=again)
    moved = np.abs(np.load(again / "adapter.npy") - first).max()
    assert 0 < moved < np.abs(first - np.eye(len(first))).max()
    assert deployed.summary["dev_questions"] == 0 and deployed.summary["base_models"][-2:] == [Path(tiny).name, "out"]


def test_a_service_is_saved_by_its_name(tiny, dataset, tmp_path):
    service = Words(model_name=tiny)  # a name that resolves without a network
    engine = AdapterFinetuneEngine(dataset, service, tmp_path / "out", cache_folder=False, epochs=1)
    with pytest.warns(UserWarning, match="base model is kept"):
        engine.finetune()
    vector = engine.get_finetuned_model().get_query_embedding("a ship")
    assert vector == pytest.approx(np.array([2, 1, 1, 1]) / 7**0.5)
    model = load_model(tmp_path / "out")
    assert np.allclose(encode(model, ["net debt"]), encode(load_model(tiny, device="cpu"), ["net debt"]), atol=1e-5)
