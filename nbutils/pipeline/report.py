"""What people read of a run: report.html and the closing table."""

from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.core import write_atomic

if TYPE_CHECKING:
    import pandas as pd

CLOSING_METRICS = ["hit_rate@5", "mrr@10", "ndcg@10"]
CLOSING_SYSTEMS = ["base", "fine-tuned", "fine-tuned on all", "BM25", "fine-tuned + BM25", "fine-tuned on all + BM25"]


def write_report(folder: Path) -> Path:
    """Write report.html: notebook 04 as it ran in a run's folder, without its code, in one file that needs no network.

    Returns:
        The report's path.
    """
    title = f"{folder.name}: is the fine-tuned model better?"
    return write_atomic(folder / "report.html", notebook_html(folder / "04_evaluate_models.ipynb", title))


def notebook_html(notebook: Path, title: str) -> str:
    """Return an executed notebook as one HTML page without its code, and without its cells tagged `no-report`."""
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True
    )
    exporter.require_js_url = exporter.mathjax_url = exporter.mermaid_js_url = exporter.widget_renderer_url = ""
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if "no-report" not in cell.metadata.get("tags", [])]
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type != "error"]
    content.metadata["title"] = title
    content.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {title}"))
    return exporter.from_notebook_node(content)[0]


def closing_table(folder: Path) -> "pd.DataFrame | None":
    """Return hit rate@5, MRR@10 and nDCG@10 of the base and the fine-tuned model on each question set of a run."""
    import pandas as pd

    path = folder / "results" / "metrics.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path)
    rows = table[table.metric.isin(CLOSING_METRICS) & table.system.isin(CLOSING_SYSTEMS)]
    wide = rows.pivot(index=["question_set", "system"], columns="metric", values="value")
    order = list(dict.fromkeys(zip(rows.question_set, rows.system, strict=True)))
    return wide.reindex(order)[CLOSING_METRICS].reset_index().rename_axis(columns=None)
