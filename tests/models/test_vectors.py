import sqlite3
import threading

import numpy as np
import pytest
import torch
from pydantic import PrivateAttr
from retrieval_examples import Words
from sentence_transformers import SentenceTransformer

from nbutils.core import UserError
from nbutils.models import vectors
from nbutils.models.names import DEFAULT_MODEL, load_model, packaged_model, resolve_embed_model
from nbutils.models.vectors import EmbeddingCache, encode, model_fingerprint


@pytest.fixture(scope="module")
def model():
    return load_model(DEFAULT_MODEL)


def test_no_texts_give_no_vectors_of_the_models_size(model, tmp_path):
    assert encode(model, []).shape == (0, 384)
    assert encode(resolve_embed_model(DEFAULT_MODEL), [], "query").shape == (0, 384)
    assert EmbeddingCache(tmp_path).embed(model, []).shape == (0, 384)
    assert encode(Words(), []).shape[0] == 0


def test_float32_is_computed_in_float32_whatever_the_model_was_saved_in(tmp_path):
    SentenceTransformer(packaged_model()).half().save_pretrained(str(tmp_path / "half"))
    half = SentenceTransformer(str(tmp_path / "half"))
    expected = encode(load_model(tmp_path / "half"), ["a ship", "the sea"], bf16=False)
    assert np.allclose(encode(half, ["a ship", "the sea"], bf16=False), expected, atol=1e-6)
    assert {str(weight.dtype) for weight in half.parameters()} == {"torch.float16"}


def test_llama_index_models_give_the_vectors_of_their_sentence_transformer(model):
    embedding = resolve_embed_model(DEFAULT_MODEL)
    assert np.allclose(encode(embedding, ["ship"]), encode(model, ["ship"]))
    assert np.allclose(embedding.get_text_embedding("ship"), encode(model, ["ship"])[0], atol=1e-6)


def test_the_cache_tells_weights_length_prompt_and_precision_apart(model, tmp_path):
    cache = EmbeddingCache(tmp_path)
    text = ["word " * 200]
    plain = cache.embed(model, text, bf16=False)
    other = load_model(DEFAULT_MODEL, max_seq_length=16)
    short = cache.embed(other, text, bf16=False)
    other.prompts["document"] = "passage: "
    prompted = cache.embed(other, text, bf16=False)
    other.transformers_model.embeddings.word_embeddings.weight.data *= 1.5
    changed = cache.embed(other, text, bf16=False)
    assert model_fingerprint(model) == model_fingerprint(load_model(DEFAULT_MODEL)) != model_fingerprint(other)
    vectors = np.concatenate([plain, short, prompted, changed])
    assert (np.linalg.norm(vectors[:, None] - vectors[None], axis=2)[~np.eye(4, dtype=bool)] > 1e-3).all()
    assert (cache.embed(model, text, bf16=False) == plain).all()
    assert cache.embedded == 4


def test_the_fingerprint_of_a_service_names_its_server():
    class Service(Words):  # the OpenAI client need not be installed
        api_base: str

        @classmethod
        def class_name(cls):
            return "OpenAIEmbedding"

    one, other = (Service(model_name="m", api_base=f"http://{host}/v1") for host in ("a", "b"))
    assert model_fingerprint(one) != model_fingerprint(other)
    assert model_fingerprint(Words()) is None


def test_a_broken_cache_is_reported_and_not_trusted(model, tmp_path):
    (tmp_path / "embeddings.sqlite").write_bytes(b"not a database" * 100)
    with pytest.warns(UserWarning, match="cannot be used"):
        vectors = EmbeddingCache(tmp_path).embed(model, ["ship"])
    assert np.allclose(vectors, EmbeddingCache(False).embed(model, ["ship"]), atol=1e-6)


def test_a_cache_with_another_table_is_reported_on_reading(model, tmp_path):
    with sqlite3.connect(tmp_path / "embeddings.sqlite") as connection:
        connection.execute("CREATE TABLE embeddings (other TEXT)")
    connection.close()
    with pytest.warns(UserWarning, match="cannot be used"):
        assert EmbeddingCache(tmp_path).embed(model, ["ship"]).shape == (1, 384)


def test_an_embedding_whose_weights_cannot_be_seen_is_not_cached(tmp_path):
    words = Words()
    for _ in range(2):
        EmbeddingCache(tmp_path).embed(words, ["ship", "ship", "rail"])
    assert words.calls == 4
    assert not (tmp_path / "embeddings.sqlite").exists()


def test_a_service_is_asked_for_several_queries_at_once_and_their_order_stays():
    class Service(Words):
        _together: threading.Barrier = PrivateAttr(default_factory=lambda: threading.Barrier(4, timeout=20))

        def _get_query_embedding(self, query):
            self._together.wait()
            return self._vector(query)

    queries = ["ship", "rail", "sea", "rate"]
    assert np.array_equal(encode(Service(num_workers=4), queries, "query"), encode(Words(), queries, "query"))


class Narrow(SentenceTransformer):
    """A model whose memory suffices for batches of so many texts."""

    def __init__(self, room):
        super().__init__(packaged_model(), device="cpu")
        self.room, self.sizes = room, []

    def forward(self, features, **options):
        self.sizes.append(len(features["input_ids"]))
        if self.sizes[-1] > self.room:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(features, **options)


TEXTS = ["the sea " * (1 + n % 5) for n in range(24)]


def test_where_memory_runs_out_batches_shrink_and_the_vectors_stay(model):
    narrow = Narrow(3)
    assert np.allclose(encode(narrow, TEXTS, batch_size=16, bf16=False), encode(model, TEXTS, bf16=False), atol=1e-5)
    assert narrow.sizes[:3] == [16, 8, 4] and set(narrow.sizes[3:]) == {2}
    with pytest.raises(UserError, match=r"a single text .* lower max_seq_length"):
        encode(Narrow(0), TEXTS, batch_size=4, bf16=False)


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_tokens_are_those_of_sentence_transformers(model, prompt):
    texts = [*TEXTS, "word " * 400]
    ours, theirs = vectors.tokenised(model, texts, prompt), model.preprocess(texts, prompt=prompt)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value == ours[name] if name in ("modality", "prompt_length") else torch.equal(value, ours[name])


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(model, monkeypatch):
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    monkeypatch.setattr(SentenceTransformer, "forward", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.raises(RuntimeError, match="illegal"):
        encode(model, TEXTS, batch_size=4, bf16=False)


def test_a_device_of_its_own_goes_on_from_the_block_where_memory_ran_out(model, monkeypatch):
    expected = encode(model, TEXTS, bf16=False)
    monkeypatch.setattr(vectors, "_away", lambda model: True)
    monkeypatch.setattr(vectors, "BLOCK", 2)
    narrow = Narrow(4)
    forward = narrow.forward

    def fuller(features, **options):
        narrow.room = 4 if len(narrow.sizes) < 3 else 2  # another program takes memory after three batches
        return forward(features, **options)

    narrow.forward = fuller
    assert np.allclose(encode(narrow, TEXTS, batch_size=4, bf16=False), expected, atol=1e-5)
    assert narrow.sizes == [4, 4, 4, 4, *[2] * 8]
