import pytest
import torch
from sentence_transformers import SentenceTransformer

from nbutils.training.batches import GroupCollator, Shuffle, Tokens
from nbutils.training.options import TrainingOptions
from nbutils.training.split import TrainingPairs

HEADER = "annual report of the ferry company"


def pairs(chunks: list[str], headers: list[str] | None = None) -> TrainingPairs:
    number = range(len(chunks))
    return TrainingPairs(
        [f"question {i}" for i in number], chunks, headers or [""] * len(chunks), [[i] for i in number],
        {i: [i] for i in number},
    )  # fmt: skip


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_those_of_the_tokenizer_padded_behind(tiny, side):
    model = SentenceTransformer(tiny, device="cpu", prompts={"query": "ask: "})
    texts = ["net debt", "what about the cash and the leases", "net debt", "cash " * 90]
    expected = model.preprocess(texts, prompt="ask: ")
    model.tokenizer.padding_side = side
    found = Tokens(model, "query", texts[:2]).batch(texts)
    assert found.pop("lengths") == expected["attention_mask"].sum(1).tolist()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]) if torch.is_tensor(value) else value == found[name]
    assert model.tokenizer.padding_side == side


def test_chunks_are_cut_within_bounds_by_the_step_alone_and_keep_their_end_mark(tiny):
    model = SentenceTransformer(tiny, device="cpu")
    data = pairs(["cash " * n for n in (1, 5, 30, 50, 60, 60, 60, 60)])
    shuffle = Shuffle(8, 1, seed=0)
    collate = GroupCollator(model, data, TrainingOptions(epochs=1, shortest=0.25), shuffle)
    rows = [{"chunk": chunk, "queries": queries} for chunk, queries in data.groups.items()]
    first, again = collate(rows), collate(rows)
    shuffle.step = 1
    later = collate(rows)
    assert torch.equal(first["document_input_ids"], again["document_input_ids"])
    assert first["document_lengths"] != later["document_lengths"]
    for text, ids, length in zip(data.chunks, first["document_input_ids"], first["document_lengths"], strict=True):
        whole = len(text.split()) + 2
        assert min(whole, 15) <= length <= whole
        assert ids[length - 1] == model.tokenizer.sep_token_id and not ids[length:].any()


def test_headers_are_dropped_as_often_as_asked_anew_in_each_epoch(tiny):
    model = SentenceTransformer(tiny, device="cpu")
    data = pairs([f"passage number {i}" for i in range(40)], [HEADER] * 20 + [""] * 20)
    rows = [{"chunk": chunk, "queries": queries} for chunk, queries in data.groups.items()]

    def lengths(dropout: float, epoch: int) -> list[int]:
        shuffle = Shuffle(40, 1, seed=0)
        shuffle.epoch = epoch
        options = TrainingOptions(epochs=2, shortest=1, header_dropout=dropout)
        return GroupCollator(model, data, options, shuffle)(rows)["document_lengths"]

    assert lengths(0, 0) == [11] * 20 + [5] * 20 and lengths(1, 0) == [5] * 40
    half = [lengths(0.5, epoch) for epoch in (0, 1)]
    assert half[0] != half[1] and half[0] == lengths(0.5, 0)
    assert all(4 < draw[:20].count(11) < 16 and draw[20:] == [5] * 20 for draw in half)


def test_queries_are_named_after_their_document_as_often_as_asked_anew_in_each_epoch(tiny):
    model = SentenceTransformer(tiny, device="cpu")
    data = pairs([f"passage number {i}" for i in range(60)], [HEADER] * 60)
    data.names.update(dict.fromkeys(range(40), "ferry report"))
    rows = [{"chunk": chunk, "queries": queries} for chunk, queries in data.groups.items()]

    def queries(rate: float, epoch: int = 0) -> list[str]:
        shuffle = Shuffle(60, 1, seed=0)
        shuffle.epoch = epoch
        collate = GroupCollator(model, data, TrainingOptions(epochs=2, named_queries=rate), shuffle)
        return model.tokenizer.batch_decode(collate(rows)["query_input_ids"], skip_special_tokens=True)

    assert queries(0) == data.queries
    assert queries(1) == [f"ferry report {query}" for query in data.queries[:40]] + data.queries[40:]
    half = queries(0.5)
    assert half == queries(0.5) != queries(0.5, epoch=1)
    assert 10 < sum(query.startswith("ferry report") for query in half) < 30 and half[40:] == data.queries[40:]


def test_all_texts_are_tokenised_before_the_first_step(tiny, monkeypatch):
    model = SentenceTransformer(tiny, device="cpu")
    data = pairs([f"passage number {i}. question {i}. And more words on it." for i in range(9)], [HEADER] * 9)
    shuffle = Shuffle(9, 3, seed=0)
    collate = GroupCollator(model, data, TrainingOptions(epochs=3), shuffle)
    monkeypatch.setattr(model, "preprocess", None)
    for shuffle.epoch in range(3):
        for batch in shuffle:
            collate([{"chunk": chunk, "queries": data.groups[chunk]} for chunk in batch])
    assert shuffle.step == 8
