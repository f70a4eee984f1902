"""Search in several documents at once: whether the right document came, and which wrong one was taken for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nbutils.evaluation.walkthrough import relevance
from nbutils.models.search import Ranking
from nbutils.questions.places import source

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


def document_metrics(
    dataset, ranking: Ranking, nodes: "Sequence[TextNode] | None", top_k: int = 5
) -> dict[str, np.ndarray]:
    """Return of each question whether its document was found; nothing where the chunks are of one file or unknown.

    `right_file@1` and `right_file@k`: a chunk of a file that holds a relevant chunk is among the first k.
    `wrong_file_same_page@k`: before any relevant chunk, and among the first k, came the same page of another file, as
    where one passage stands in every year's report (here less is better).

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        ranking: of its chunks.
        nodes: the chunks with `file_name` and `page` in their metadata.
        top_k: k.

    Returns:
        Metric name -> array of 0.0 and 1.0, shape (queries,).
    """
    if getattr(dataset, "documents", None):  # each question was searched in its own document
        return {}
    sources = {node.node_id: source(node) for node in nodes or () if node.node_id in dataset.corpus}
    if len({file for file, _ in sources.values()}) < 2 or len(sources) < len(dataset.corpus):
        return {}
    ids = list(dataset.corpus)
    rows = []
    for found, grades in zip(ranking.index[:, :top_k], relevance(dataset).values(), strict=True):
        right = {sources[chunk] for chunk in grades}
        files, pages = {file for file, _ in right}, {page for _, page in right if page is not None}
        first = [ids[i] for i in found if i >= 0]
        in_file = [sources[chunk][0] in files for chunk in first]
        before = next((i for i, chunk in enumerate(first) if chunk in grades), len(first))
        mistaken = any(not in_file[i] and sources[first[i]][1] in pages for i in range(before))
        rows.append((any(in_file[:1]), any(in_file), mistaken))
    names = ("right_file@1", f"right_file@{top_k}", f"wrong_file_same_page@{top_k}")
    return dict(zip(names, np.array(rows, dtype=np.float64).T, strict=True))
