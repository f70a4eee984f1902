"""What people read of a run: report.html and the closing table."""

import base64
import contextlib
import html
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from nbutils.core import asked, write_atomic

if TYPE_CHECKING:
    import nbformat
    import pandas as pd

CLOSING_METRICS = ["hit_rate@5", "mrr@10", "ndcg@10"]
CLOSING_SYSTEMS = ["base", "fine-tuned", "fine-tuned on all", "BM25", "fine-tuned + BM25", "fine-tuned on all + BM25"]
DEPLOY = {  # a verdict's advice -> what to do, with {model} for the model that it is about
    "use it": "Deploy the fine-tuned model ({folder}/).",
    "use hybrid": "Deploy {model} together with keyword search (BM25).",
    "use BM25": "Deploy keyword search (BM25) alone.",
    "get more data": "Keep the base model for now: there is too little data to tell.",
    "keep the base": "Deploy the base model as it is.",
}
PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>$title</title>
<style>
body {font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 62em; margin: 1em auto;
  padding: 0 1em; overflow-wrap: anywhere}
h1 {font-size: 1.3em} h2 {font-size: 1.2em} img {max-width: 100%} pre {white-space: pre-wrap}
.deploy {border-left: 6px solid #0072b2; padding: .1em 1em; background: #e8f1f8} .deploy strong {font-size: 1.35em}
table {border: 0; border-collapse: collapse; font-size: .85em; margin: .6em 0} thead {border-bottom: 1px solid #1b1b1b}
th, td {padding: .2em .5em; text-align: right; vertical-align: top; border: 0; overflow-wrap: break-word}
tbody tr:nth-child(odd) {background: #f4f4f4} .wide {overflow-x: auto; max-width: 100%}
details {border-top: 1px solid #bbb; padding: .4em 0} summary {cursor: pointer; font-weight: bold}
details h2 {display: none} @media print {details h2 {display: block} .wide {overflow: visible}}
</style>
<script>addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(each => each.open = true))</script>
</head><body><h1>$title</h1>
$body
</body></html>
""")


def write_report(folder: Path) -> Path:
    """Write report.html: what to deploy, the picture that shows it, and notebook 04 as it ran, folded and without code.

    Args:
        folder: the run's.

    Returns:
        The report's path. It is one file that needs no network.
    """
    title = f"{folder.name}: is the fine-tuned model better?"
    page = notebook_html(folder / "04_evaluate_models.ipynb", title, opening=_opening(folder), fold=True)
    return write_atomic(folder / "report.html", page)


def notebook_html(notebook: Path, title: str, *, opening: str = "", fold: bool = False) -> str:
    """Return an executed notebook as one HTML page without its code, and without its cells tagged `no-report`.

    Args:
        notebook: the file.
        title: of the page.
        opening: HTML that stands before the notebook.
        fold: close every section but its heading.
    """
    with without_address_checks():
        import nbformat
        from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic", exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True,
        embed_images=True,
    )  # fmt: skip
    parts = [opening]
    for heading, cells in _sections(nbformat.read(notebook, as_version=4)):
        section = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=cells))[0]
        section = re.sub(r"(?s)<table.*?</table>", r"<div class='wide'>\g<0></div>", section)
        if fold and heading:
            section = f"<details><summary>{html.escape(heading)}</summary>{section}</details>"
        parts.append(section)
    return PAGE.substitute(title=html.escape(title), body="\n".join(parts))


@contextlib.contextmanager
def without_address_checks() -> Iterator[None]:
    """Let the block import jsonschema without its optional check of addresses, whose grammar takes seconds to build."""
    skipped = "rfc3987_syntax" not in sys.modules
    if skipped:
        sys.modules["rfc3987_syntax"] = None
    try:
        yield
    finally:
        if skipped:
            sys.modules.pop("rfc3987_syntax", None)


def _sections(notebook: "nbformat.NotebookNode") -> Iterator[tuple[str, list]]:
    """Yield the heading ("" before the first) and the cells of each part of a notebook that begins with `## `."""
    import nbformat

    heading, cells = "", []
    for cell in (each for each in notebook.cells if "no-report" not in each.metadata.get("tags", [])):
        if cell.cell_type == "code":
            cells.append(cell)
            cell.outputs = [output for output in cell.outputs if output.output_type != "error"]
            continue
        for text in re.split(r"(?m)^(?=## )", cell.source):
            if text.startswith("## "):
                if cells:
                    yield heading, cells
                heading, cells = text.split("\n")[0].strip("# "), []
            cells.append(nbformat.v4.new_markdown_cell(text))
    yield heading, cells


def _opening(folder: Path) -> str:
    """Return as HTML what to deploy, what to do next, and each system's score on the questions that decide."""
    files = [folder / "run.json", *(folder / "results" / name for name in ("metrics.csv", "differences.csv"))]
    if not all(file.exists() for file in files):
        return ""
    step = json.loads(files[0].read_text(encoding="utf-8")).get("steps", {}).get("04_evaluate_models", {})
    found = step.get("verdict") or {}
    steps = "".join(f"<li>{html.escape(each)}</li>" for each in found.get("next_steps", ()))
    picture, caption = _picture(folder)
    return (
        f"<div class='deploy'><p><strong>{html.escape(_deploy(found, folder))}</strong></p>"
        f"<p>{html.escape(found.get('headline', '').partition(' Advice: ')[0])}</p>{steps and f'<ol>{steps}</ol>'}</div>"
        f"<figure><img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{picture}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _deploy(found: Mapping[str, Any], folder: Path) -> str:
    model = "the fine-tuned model" if found.get("kind") == "better" else "the base model"
    return found.get("deploy") or DEPLOY.get(found.get("advice"), "The evaluation gave no verdict.").format(
        model=model, folder="model_all" if (folder / "model_all").exists() else "model"
    )


def _picture(folder: Path) -> tuple[str, str]:
    """Return a PNG of every system's hit rate on the questions that decide, in base 64, and what it shows."""
    import pandas as pd

    from nbutils.plots.figures import plot_story

    results = json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
    metrics = pd.read_csv(folder / "results" / "metrics.csv")
    by_people = metrics[metrics.question_set.isin(results.get("human", ()))]
    rows = by_people if len(by_people) else metrics
    name, base = results.get("decisive", rows.question_set.iloc[0]), results.get("base", "base")
    table = scores(folder / "results", name, "hit_rate@5", base)
    table = table.loc[[base, *table.index[table.low.notna()]]].reset_index(names="name")
    count = rows[rows.question_set == name].questions.iloc[0]
    caption = (
        f"Share of {count} {asked(name)} that find a relevant chunk among the first 5. A bar is the 95 % "
        "interval of the difference from the base model (dashed line) on the same questions."
    )
    return base64.b64encode(plot_story(table, "hit rate@5")._repr_png_()).decode(), caption


def scores(folder: Path, question_set: str, metric: str, base: str) -> "pd.DataFrame":
    """Return each system's score on a question set, and the interval of its difference from the base.

    Args:
        folder: of metrics.csv and differences.csv.
        question_set, metric: which of their rows.
        base: the base's name.

    Returns:
        Rows by system: `score`, and `low` and `high`, the base's score plus the ends of the 95 % interval of the paired
        difference (NaN for the base itself).
    """
    import pandas as pd

    tables = (pd.read_csv(folder / f"{name}.csv") for name in ("metrics", "differences"))
    values, gains = (
        table[(table.question_set == question_set) & (table.metric == metric)].set_index("system") for table in tables
    )
    start = values.value.get(base, float("nan"))
    ends = {end: gains[end].reindex(values.index) + start for end in ("low", "high")}
    return pd.DataFrame({"score": values.value, **ends})


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
