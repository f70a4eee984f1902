"""Training and validation apart: parts of one corpus that share no page and no text."""

import itertools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nbutils.core import UserError
from nbutils.corpus.chunks import source_id

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


def split_corpus(
    nodes: "Sequence[TextNode]", validation_share: float = 0.3, *, seed: int = 0
) -> "tuple[list[TextNode], list[TextNode]]":
    """Split one corpus into a training and a validation part that share no page and no text.

    The corpus is cut into at most 20 blocks of neighbouring pages (of neighbouring chunks where there are no pages, or
    only one), and whole blocks go to one part. A training chunk that repeats text of a validation chunk is left out: the
    overlap of neighbours, or the same text elsewhere.

    Args:
        nodes: chunks in reading order, as `load_corpus` returns them.
        validation_share: share of the chunks for validation, between 0 and 1; met to within half a block, 2 at least.
        seed: decides which blocks.

    Raises:
        UserError: a share out of range, or too few pages or chunks to split.
    """
    if not 0 < validation_share < 1:
        raise UserError(f"validation_share is {validation_share}; it must lie between 0 and 1, for example 0.3.")
    pages = itertools.groupby(nodes, lambda node: source_id(node.metadata) if node.metadata.get("page") else node.id_)
    units = [list(page) for _, page in pages]
    if len(units) == 1:
        units = [[node] for node in nodes]
    if len(units) < 2:
        advice = "too few to set some aside for validation. Add a longer document, or name others to validate on."
        raise UserError(f"The documents hold {len(nodes)} chunk(s) of text, {advice}")
    blocks = 20
    if any(source_id(one[-1].metadata) == source_id(two[0].metadata) for one, two in itertools.pairwise(units)):
        blocks = max(2, min(blocks, len(units) // 4))  # blocks lose their edges, which overlap
    cut = _cut(units, blocks)
    order = list(range(len(cut)))
    random.Random(seed).shuffle(order)
    wanted = max(2, validation_share * len(nodes))
    chosen, count = set(), 0
    for index in order:
        size = len(cut[index])
        if len(chosen) < len(cut) - 1 and abs(count + size - wanted) <= abs(count - wanted):
            chosen.add(index)
            count += size
    chosen = chosen or {min(order, key=lambda index: len(cut[index]))}
    part = [index in chosen for index, block in enumerate(cut) for _ in block]
    leaking = _leaking(nodes, part)
    train = [node for i, node in enumerate(nodes) if not part[i] and i not in leaking]
    if not train:
        raise UserError("No training chunk is left that shares no text with validation. Add a longer document.")
    return train, list(itertools.compress(nodes, part))


def _cut(units: "list[list[TextNode]]", blocks: int) -> "list[list[TextNode]]":
    """Cut units into at most `blocks` runs of about as many chunks each."""
    sizes = list(map(len, units))
    middles = [end - size / 2 for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]
    number = [min(blocks - 1, int(middle * blocks / sum(sizes))) for middle in middles]
    runs = itertools.groupby(zip(number, units, strict=True), lambda pair: pair[0])
    cut = [[node for _, unit in run for node in unit] for _, run in runs]
    return cut if len(cut) > 1 else units


def _leaking(nodes: "Sequence[TextNode]", is_validation: list[bool]) -> set[int]:
    """Return the positions of training chunks that repeat text of a validation chunk."""
    texts = [" ".join(node.text.split()) for node in nodes]
    held = set(itertools.compress(texts, is_validation))
    leaking = {i for i, text in enumerate(texts) if not is_validation[i] and text in held}
    for edge, step in itertools.product(itertools.compress(range(len(nodes)), is_validation), (-1, 1)):
        position = edge + step
        while 0 <= position < len(nodes) and not is_validation[position]:
            if _overlap(*(nodes[i] for i in sorted((edge, position)))) < 20:
                break
            leaking.add(position)
            position += step
    return leaking


def _overlap(first: "TextNode", second: "TextNode") -> int:
    """Return how many characters at the end of `first` also begin `second`, a chunk of the same page."""
    if source_id(first.metadata) != source_id(second.metadata):
        return 0
    one, two = first.text, second.text
    return next((k for k in range(min(len(one), len(two)), 0, -1) if one.endswith(two[:k])), 0)
