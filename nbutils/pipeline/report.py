"""What people read of a run: report.html and the closing table."""

import base64
import contextlib
import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

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
    """Write report.html of a run's folder: what to deploy, a picture of it, and notebook 04, folded and without code.

    It is one file that needs no network.
    """
    title = f"{folder.name}: is the fine-tuned model better?"
    page = notebook_html(folder / "04_evaluate_models.ipynb", title, opening=_opening(folder), fold=True)
    return write_atomic(folder / "report.html", page)


def notebook_html(notebook: Path, title: str, *, opening: str = "", fold: bool = False) -> str:
    """Return an executed notebook as one HTML page without its code, and without its cells tagged `no-report`.

    The HTML `opening` stands before the notebook; `fold` closes every section but its heading.
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
    if not (folder / "results" / "results.json").exists():
        return ""
    steps = json.loads((folder / "run.json").read_text(encoding="utf-8"))["steps"]
    found = steps["04_evaluate_models"].get("verdict") or {}
    model = "the fine-tuned model" if found.get("kind") == "better" else "the base model"
    own = "model_all" if (folder / "model_all").exists() else "model"
    deploy = DEPLOY.get(found.get("advice"), "The evaluation gave no verdict.").format(model=model, folder=own)
    to_do = "".join(f"<li>{html.escape(each)}</li>" for each in found.get("next_steps", ()))
    picture, caption = _picture(folder / "results")
    return (
        f"<div class='deploy'><p><strong>{html.escape(deploy)}</strong></p>"
        f"<p>{html.escape(found.get('headline', '').partition(' Advice: ')[0])}</p>{to_do and f'<ol>{to_do}</ol>'}</div>"
        f"<figure><img alt='{html.escape(caption, quote=True)}' src='data:image/png;base64,{picture}'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _picture(results: Path) -> tuple[str, str]:
    """Return a PNG of every system's hit rate on the questions that decide, in base 64, and what it shows.

    The intervals are those of the paired differences from the base, moved to the base's score.
    """
    import pandas as pd

    from nbutils.plots.figures import plot_story

    known = json.loads((results / "results.json").read_text(encoding="utf-8"))
    tables = (pd.read_csv(results / f"{name}.csv") for name in ("metrics", "differences"))
    scores, gains = (
        table[(table.question_set == known["decisive"]) & (table.metric == "hit_rate@5")].set_index("system")
        for table in tables
    )
    start = scores.value[known["base"]]
    ends = {end: gains[end].reindex(scores.index) + start for end in ("low", "high")}
    table = pd.DataFrame({"score": scores.value, **ends})
    table = table.loc[[known["base"], *table.index[table.low.notna()]]].reset_index(names="name")
    caption = (
        f"Share of {scores.questions.iloc[0]} {asked(known['decisive'])} that find a relevant chunk among the first 5. "
        "A bar is the 95 % interval of the difference from the base model (dashed line) on the same questions."
    )
    return base64.b64encode(plot_story(table, "hit rate@5")._repr_png_()).decode(), caption


def closing_table(folder: Path) -> "pd.DataFrame":
    """Return hit rate@5, MRR@10 and nDCG@10 of the base and the fine-tuned model on each question set of a run."""
    import pandas as pd

    table = pd.read_csv(folder / "results" / "metrics.csv")
    rows = table[table.metric.isin(CLOSING_METRICS) & table.system.isin(CLOSING_SYSTEMS)]
    wide = rows.pivot_table("value", ["question_set", "system"], "metric", sort=False)
    return wide[CLOSING_METRICS].reset_index().rename_axis(columns=None)
