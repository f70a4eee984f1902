"""A matplotlib figure that notebooks show although pyplot does not know it."""

import io

import matplotlib.figure


class Figure(matplotlib.figure.Figure):
    """A figure that is shown as PNG wherever it is a cell's value or displayed; without pyplot it never leaks."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()
