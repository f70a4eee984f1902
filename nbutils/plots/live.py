"""The training curve that redraws itself in a notebook while the model learns."""

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class LiveTrainingPlot:
    """Shows `plots.plot_training` and redraws it as the history grows; silent in headless runs.

    Args:
        every: least seconds between two drawings.
    """

    def __init__(self, every: float = 2.0):
        self.every = every
        self._handle = None
        self._drawn = 0.0
        self._on = "NBUTILS_PROGRESS" not in os.environ

    def update(self, history: "pd.DataFrame") -> None:
        """Redraw for `history` (see `SentenceTransformersFinetuneEngine.history`) unless that was done just now."""
        if not self._on or len(history) < 2 or time.monotonic() - self._drawn < self.every:
            return
        from IPython.display import display

        from nbutils.plots.figures import plot_training

        figure = plot_training(history)
        if self._handle is None:
            self._handle = display(figure, display_id=True)
        else:
            self._handle.update(figure)
        self._drawn = time.monotonic()

    def close(self) -> None:
        """Take the live drawing away; the final figure stands in its place."""
        if self._handle is not None:
            from IPython.display import HTML

            self._handle.update(HTML(""))
            self._handle = None
