"""The drawings say what they should, on paper of their own: readable on a light and on a dark page."""

import io
from collections import Counter

import matplotlib.image
import pytest

from nbutils.plots import diagrams as pictures


def texts(figure) -> Counter:
    return Counter(text.get_text() for text in figure.axes[0].texts)


def test_a_batch_of_pairs_takes_each_siblings_chunk_for_wrong():
    drawn = texts(pictures.draw_pairs_batch(3))
    assert (drawn["match"], drawn["no!"], drawn["no"]) == (6, 6, 24)
    assert drawn["chunk 1"] == 2


def test_a_grouped_batch_leaves_a_chunks_own_questions_out():
    drawn = texts(pictures.draw_grouped_batch(3))
    assert (drawn["match"], drawn["no!"], drawn["no"], drawn["–"]) == (6, 0, 36, 12)
    assert drawn["chunk 1"] == 1


def test_truncation_is_drawn_to_scale():
    figure = pictures.draw_truncation({"short": 100, "long": 1024}, 256)
    drawn = texts(figure)
    assert drawn["read: 100 tokens"] == drawn["read: 256 tokens"] == drawn["never seen: 768 tokens"] == 1
    assert [patch.get_width() for patch in figure.axes[0].patches] == [100, 256, 768]


@pytest.mark.parametrize(
    "figure",
    [pictures.draw_pipeline(2), pictures.draw_pairs_batch(), pictures.draw_grouped_batch(),
     pictures.draw_truncation({"one": 300}, 256)],
)  # fmt: skip
def test_the_paper_is_opaque_and_nothing_is_cut_off(figure):
    image = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))
    assert (image[..., 3] == 1).all()
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge[:, :3] == 1).all()
