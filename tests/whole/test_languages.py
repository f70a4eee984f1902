"""Documents in six languages: keyword search, wording overlap, leaks, and the offline generator or its word that it cannot."""

from pathlib import Path

import pytest

from nbutils import EmbeddingQAFinetuneDataset, generate_qa_embedding_pairs, load_corpus
from nbutils.evaluation.gold import load_gold_questions
from nbutils.evaluation.leaks import find_leaks, wording_overlap
from nbutils.models.search import BM25Index, guess_language

FOLDER = Path(__file__).parent / "languages"
# one question on each paragraph, in other forms of some of its words
QUESTIONS = {
    "german": ["Wie viel Dinkel mahlte die Mühle?", "Was zahlte die Versicherung nach den Hochwassern?",
               "Welche Backmischungen verkauft der Laden?", "Wann gehen Müller in Ruhestand?", "Wofür ist die Solarzelle?"],
    "french": ["Combien de tonnes de seigle furent moulues ?", "Les assurances remboursent-elles les crues ?",
               "Que vend la boutique le samedi ?", "Qui part à la retraite ?", "À quoi servira le panneau solaire ?"],
    "spanish": ["¿Cuántas toneladas de espelta molieron?", "¿Pagaron los seguros el daño de las crecidas?",
                "¿Qué mezcla vende la tienda?", "¿Qué molineros se jubilan?", "¿Para qué es la placa solar?"],
    "russian": ["Сколько тонн полбы смололи?", "Кто оплатил ущерб от паводка?", "Какую смесь продают в лавке?",
                "Какие мельники уходят на пенсию?", "Зачем нужна солнечная панель?"],
    "chinese": ["磨了多少黑麦？", "洪水的损失谁赔偿？", "商店卖什么预拌粉？", "哪位师傅退休？", "太阳能用来做什么？"],
    "japanese": ["ライ麦をどれだけ挽いたか", "洪水の損害は誰が支払ったか", "売店で何が売れるか", "誰が引退するか", "太陽電池は何に使うか"],
}  # fmt: skip
WITHOUT_SPACES = ("chinese", "japanese")


@pytest.fixture(params=QUESTIONS)
def language(request):
    return request.param


@pytest.fixture
def paragraphs(language):
    return (FOLDER / f"{language}.md").read_text(encoding="utf-8").strip().split("\n\n")[1:]


def test_keyword_search_finds_other_forms_of_the_words(language, paragraphs):
    scores = BM25Index(paragraphs).scores(QUESTIONS[language])
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    assert language in WITHOUT_SPACES or guess_language(paragraphs) == language


def test_a_question_shares_words_with_its_own_paragraph_alone(language, paragraphs):
    def overlap(shift):
        return wording_overlap(
            EmbeddingQAFinetuneDataset(
                queries={str(i): question for i, question in enumerate(QUESTIONS[language])},
                corpus={str(i): text for i, text in enumerate(paragraphs)},
                relevant_docs={str(i): [str((i + shift) % 5)] for i in range(5)},
            )
        ).mean()

    assert overlap(0) > 2 * overlap(1)


def test_a_copied_paragraph_is_a_leak(paragraphs):
    train = {str(i): text for i, text in enumerate(paragraphs[:3])}
    val = {"copy": paragraphs[1], "own": paragraphs[4], "nearly": paragraphs[2][:-3]}
    assert {leak.chunk: leak.exact for leak in find_leaks(train, val)} == {"copy": True, "nearly": False}


def test_a_quote_from_within_a_sentence_finds_its_paragraph(language, paragraphs, tmp_path):
    nodes = load_corpus(FOLDER / f"{language}.md", chunk_size=96, chunk_overlap=0)
    text = paragraphs[3]
    quote = text[7:19] if language in WITHOUT_SPACES else " ".join(text.split()[1:7])
    (tmp_path / "gold.csv").write_text(f"question,quote\n{QUESTIONS[language][3]},{quote}\n", encoding="utf-8")
    gold = load_gold_questions(tmp_path / "gold.csv", nodes)
    ((chunk,),) = gold.relevant_docs.values()
    assert quote in gold.corpus[chunk]


def test_the_offline_generator_writes_sentences_of_the_text_or_says_that_it_cannot(language, tmp_path):
    nodes = load_corpus(FOLDER / f"{language}.md", chunk_size=96, chunk_overlap=0)
    if language in WITHOUT_SPACES:
        with pytest.warns(UserWarning, match="spaces between words"):
            assert not generate_qa_embedding_pairs(
                nodes, "offline", verbose=False, output_path=tmp_path / "pairs.json"
            ).queries
        return
    dataset = generate_qa_embedding_pairs(nodes, "offline", verbose=False, output_path=tmp_path / "pairs.json")
    assert len(dataset.queries) >= len(nodes)
    for query_id, query in dataset.queries.items():
        chunk = dataset.corpus[dataset.relevant_docs[query_id][0]].casefold()
        assert all(word in chunk for word in query.casefold().split()), query
