"""The gold questions of a run: those about the validation documents, and those about all documents."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbutils.evaluation.gold import GoldQuestions, gold_questions
from nbutils.evaluation.leaks import near_copies, remove_leaks, without_chunks
from nbutils.questions.dataset import with_queries
from nbutils.questions.places import source

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode

GOLD, ALL_GOLD = "gold", "gold, all documents"


def gold_sets(
    name: str,
    train_files: Sequence[str],
    val_files: Sequence[str],
    train_nodes: "Sequence[TextNode]",
    val_nodes: "Sequence[TextNode]",
    taught: Mapping[str, str],
    *,
    keep_leaks: bool = False,
) -> dict[str, GoldQuestions]:
    """Return the gold questions as question sets; none where there are no gold questions.

    `gold` holds the questions about the validation documents: it judges a model that was trained on the others.
    `gold, all documents` holds every question, each searched in its own document: it judges a model that was trained
    on all of them. It is left out where it would be the same as `gold`. Where training questions are near-copies of
    gold questions, the sets without those stand beside.

    Args:
        name: GOLD_QUESTIONS: a path, "auto" or "".
        train_files, val_files: the files of the run, to find what "auto" means.
        train_nodes, val_nodes: the chunks of the run.
        taught: id -> training question.
        keep_leaks: keep validation chunks that stand in the training corpus.

    Raises:
        UserError: as for `gold_questions`.
    """
    found = gold_questions(name, [*val_files, *train_files], [*train_nodes, *val_nodes])
    if found is None:
        return {}
    train_ids = {node.node_id for node in train_nodes}
    unseen, sets = without_chunks(found, train_ids), {}
    if unseen.queries:
        train_corpus = {node.node_id: node.text for node in train_nodes}
        sets[GOLD], _ = remove_leaks(unseen, train_corpus, keep=keep_leaks)
    if len(unseen.queries) < len(found.queries):
        documents = {node.node_id: source(node)[0] for node in [*train_nodes, *val_nodes]}
        sets[ALL_GOLD] = found.model_copy(update={"documents": documents})
    copies = near_copies(found.queries, taught.values())
    if len(copies):
        told = f"{len(copies)} gold questions have a near-copy among the training questions:"
        print(told, *copies.question, sep="\n- ")
        for each, data in list(sets.items()):
            if kept := data.queries.keys() - set(copies.index):
                sets[f"{each}, no near-copies"] = with_queries(data, kept)
    return sets
