import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nbutils.plots import figures as plots

RNG = np.random.default_rng(0)


def per_query() -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {"question_set": name, "system": system, "query": [f"q{i}" for i in range(40)],
             "rank": np.where(RNG.random(40) < 0.1, np.nan, RNG.integers(1, 100, 40))}
        )
        for name in ("synthetic", "gold") for system in ("base", "fine-tuned", "BM25")
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def table() -> pd.DataFrame:
    rows = [
        {"question_set": "gold", "system": system, "metric": metric, "value": 0.5, "low": 0.4, "high": 0.6,
         "questions": 40}
        for system in ("base", "fine-tuned") for metric in ("hit_rate@5", "mrr@10", "ndcg@10")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def history() -> pd.DataFrame:
    steps = np.arange(1, 21)
    dev = np.where(steps % 5 == 0, 0.6 + steps / 100, np.nan)
    return pd.DataFrame(
        {"step": steps, "epoch": steps / 10, "loss": 1 / steps, "learning_rate": 5e-5 / steps, "dev_ndcg@10": dev}
    )


def near() -> pd.DataFrame:
    return pd.DataFrame({"right": RNG.random(30), "wrong": RNG.random(30)})


def points() -> pd.DataFrame:
    return pd.DataFrame(
        {"kind": ["chunk"] * 10 + ["question"] * 20, "id": [f"c{i}" for i in range(10)] + [f"q{i}" for i in range(20)],
         "x": RNG.random(30), "y": RNG.random(30), "target": [None] * 10 + [f"c{i % 10}" for i in range(20)]}
    )  # fmt: skip


def sizes(systems=("base", "fine-tuned")) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"system": system, "dimensions": d, "precision": precision, "bytes": d * bits // 8,
             "value": 0.5, "low": 0.4, "high": 0.6}
            for system in systems for d in (32, 64)
            for precision, bits in (("float32", 32), ("int8", 8), ("binary", 1))
        ]
    )  # fmt: skip


def parts() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"slice": "numbers", "group": group, "questions": count, "difference": 0.1, "low": -0.1, "high": 0.2}
            for group, count in (("with a number", 12), ("without a number", 28), ("unknown", 1))
        ]
    )


def story() -> pd.DataFrame:
    return pd.DataFrame(
        {"name": ["base", "keywords", "fine-tuned", "both"], "score": [0.5, 0.4, 0.6, 0.55],
         "low": [np.nan, 0.3, 0.55, 0.45], "high": [np.nan, 0.45, 0.65, 0.6]}
    )  # fmt: skip


def curve() -> pd.DataFrame:
    return pd.DataFrame(
        {"fraction": [0, 0.25, 0.5, 1], "chunks": [0, 40, 80, 160], "score": [0.5, 0.52, 0.56, 0.6],
         "low": [np.nan, 0.5, 0.52, 0.55], "high": [np.nan, 0.54, 0.6, 0.65]}
    )  # fmt: skip


FIGURES = {
    "story": lambda: plots.plot_story(story()),
    "learning curve": lambda: plots.plot_learning_curve(curve()),
    "hit rate": lambda: plots.plot_hit_rate_by_k(per_query(), question_set="gold"),
    "metrics": lambda: plots.plot_metrics(table()),
    "one metric": lambda: plots.plot_metrics(table(), ["ndcg@10"]),
    "training": lambda: plots.plot_training(history()),
    "training without scores": lambda: plots.plot_training(history()[["step", "loss"]]),
    "chunk lengths": lambda: plots.plot_chunk_lengths([10, 200, 300], 256),
    "rank shift": lambda: plots.plot_rank_shift(per_query(), "base", "fine-tuned"),
    "similarities": lambda: plots.plot_similarities({"base": near(), "fine-tuned": near()}),
    "map": lambda: plots.plot_map({"base": points(), "fine-tuned": points()}),
    "map of one": lambda: plots.plot_map({"base": points()}),
    "similarities of one": lambda: plots.plot_similarities({"base": near()}),
    "sizes": lambda: plots.plot_size_curve(sizes()),
    "sizes of many": lambda: plots.plot_size_curve(sizes([f"model {i}" for i in range(9)])),
    "slices": lambda: plots.plot_slices(parts()),
    "no slices": lambda: plots.plot_slices(parts().iloc[:0]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_titled_labelled_drawn_and_unknown_to_pyplot(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    file = tmp_path / "figure.png"
    figure.savefig(file)
    assert file.stat().st_size > 5000
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>" and ax.get_xlabel()]
    assert panels and (figure.get_suptitle() or all(ax.get_title() for ax in panels))
    assert any(ax.get_ylabel() or [t.get_text() for t in ax.get_yticklabels() if t.get_text()] for ax in panels)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", FIGURES)
def test_no_title_is_cut_off(name):
    figure = FIGURES[name]()
    figure.canvas.draw()
    for text in [ax.title for ax in figure.axes] + figure.texts:
        box = text.get_window_extent()
        if text.get_text():
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()


@pytest.mark.parametrize("name", ["similarities", "map"])
def test_the_figures_title_is_larger_than_its_panels(name):
    figure = FIGURES[name]()
    assert figure.texts[0].get_fontsize() > max(ax.title.get_fontsize() for ax in figure.axes)


def test_lines_differ_by_more_than_colour():
    ax = plots.plot_hit_rate_by_k(per_query()).axes[0]
    looks = {(str(line.get_linestyle()), line.get_marker()) for line in ax.get_lines()}
    assert len(looks) == len(ax.get_lines()) == 3


def test_the_colours_differ_in_grey():
    from matplotlib.colors import to_rgb

    grey = sorted(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) for colour in plots.COLOURS[:4])
    assert min(np.diff(grey)) > 0.02


def test_hit_rate_curve_holds_the_hit_rates():
    frame = per_query()
    line = plots.plot_hit_rate_by_k(frame).axes[0].get_lines()[0]
    rows = frame[(frame.question_set == "synthetic") & (frame.system == "base")]
    assert line.get_ydata()[4] == pytest.approx((rows["rank"] <= 5).mean())


def test_rank_shift_counts_every_question_once():
    figure = plots.plot_rank_shift(per_query(), "base", "fine-tuned", "gold")
    assert sum(int(text.get_text()) for text in figure.axes[0].texts) == 40


def test_chunk_lengths_says_what_is_not_read():
    figure = plots.plot_chunk_lengths([100, 300], 200)
    assert "25.0%" in figure.axes[0].get_title()


def test_bars_of_intervals_that_rounding_turned_round_are_drawn():
    rows = table().assign(value=1 / 3, low=1 / 3 + 1e-16, high=1 / 3)
    plots.plot_metrics(rows).canvas.draw()
    slices = parts().assign(difference=0.1, low=0.1 + 1e-16, high=0.1 - 1e-16)
    plots.plot_slices(slices).canvas.draw()


def test_dollars_in_names_are_no_formula():
    rows = table().replace({"system": {"fine-tuned": r"from $9 to $\odd 12"}})
    figure = plots.plot_metrics(rows)
    figure.canvas.draw()  # mathtext would raise ValueError
    assert r"from $9 to $\odd 12" in [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_a_story_tells_gain_loss_and_chance_by_shape_and_marks_the_base():
    ax = plots.plot_story(story()).axes[0]
    assert [line.get_marker() for line in ax.get_lines() if len(line.get_xdata()) == 1 and line.get_marker() not in "|"] == [
        "o", "^", "s", "o",
    ]  # fmt: skip
    assert [text.get_text() for text in ax.texts] == ["0.50", "0.40", "0.60", "0.55"]
    assert [line.get_xdata()[0] for line in ax.get_lines() if line.get_linestyle() == "--"] == [0.5]


def test_a_learning_curve_holds_its_scores_and_the_base():
    ax = plots.plot_learning_curve(curve()).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["40\n(25%)", "80\n(50%)", "160\n(100%)"]
    assert list(ax.get_lines()[0].get_ydata()) == [0.52, 0.56, 0.6]
    assert 0.5 in [line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"]
