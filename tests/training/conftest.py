import itertools
import random

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

from nbutils.models.names import packaged_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with a random BERT of two layers and 32 dimensions that reads 64 tokens."""
    root = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(packaged_model())
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    words = Transformer(str(root / "bert"), max_seq_length=64)
    modules = [words, Pooling(words.get_embedding_dimension()), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(root / "model"))
    return str(root / "model")


@pytest.fixture(scope="session")
def dataset():
    """48 chunks of 12 words with two questions each; each question asks with synonyms that training can learn."""
    draw = random.Random(1)
    words = [f"{a}{b}" for a, b in itertools.product(("gross", "net", "cash", "tax", "debt", "lease"), "abcdefghij")]
    corpus = {f"c{i}": " ".join(draw.sample(words, 10)) for i in range(48)}
    queries, relevant = {}, {}
    for chunk_id, text in corpus.items():
        for half in range(2):
            queries[f"{chunk_id}q{half}"] = "what about " + " ".join(w[::-1] for w in text.split()[half * 5 :][:5])
            relevant[f"{chunk_id}q{half}"] = [chunk_id]
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)
