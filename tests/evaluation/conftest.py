import pytest

from nbutils.evaluation.forgetting import load_general_knowledge
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


@pytest.fixture(autouse=True, scope="package")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBUTILS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def model():
    return load_model(DEFAULT_MODEL)


def part_of_general_knowledge(chunks: int) -> EmbeddingQAFinetuneDataset:
    everything = load_general_knowledge()
    corpus = dict(list(everything.corpus.items())[:chunks])
    queries = {q: t for q, t in everything.queries.items() if everything.relevant_docs[q][0] in corpus}
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs={q: everything.relevant_docs[q] for q in queries}
    )


@pytest.fixture(scope="session")
def general():
    return part_of_general_knowledge(60)


@pytest.fixture(scope="session")
def few():
    return part_of_general_knowledge(8)


@pytest.fixture(scope="session")
def some():
    return part_of_general_knowledge(24)
