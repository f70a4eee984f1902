"""report.html in a real browser: headless Chromium without a network."""

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from nbutils.evaluation.inspection import examples_html
from nbutils.evaluation.verdict import Verdict
from nbutils.pipeline.report import write_report
from nbutils.pipeline.run import Run
from nbutils.plots import figures as plots

NASTY = """<script>document.title="broken"</script><img src=x onerror="document.title='broken'">& </td>"""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")


def browse(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1100,3000",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000",
        *options, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)


def console(result: subprocess.CompletedProcess) -> list[str]:
    return re.findall(r"CONSOLE[:(]\d+\)?\] (.*)", result.stderr)


def png(figure, tmp_path: Path) -> str:
    file = tmp_path / "figure.png"
    figure.savefig(file)
    return base64.b64encode(file.read_bytes()).decode()


def write_results(run: Run) -> None:
    """Write what notebook 04 saves: synthetic questions first, then people's, on which BM25 is worse than the base."""
    metrics, differences = [], []
    for question_set, count in (("synthetic", 300), ("gold", 80)):
        for system, value in {"base": 0.5, "fine-tuned": 0.6, "BM25": 0.3}.items():
            at = {"question_set": question_set, "system": system, "metric": "hit_rate@5", "questions": count}
            metrics.append(at | {"value": value, "low": value - 0.2, "high": value + 0.2})
            if system != "base":
                gain = value - 0.5
                differences.append(at | {"base": "base", "difference": gain, "low": gain - 0.05, "high": gain + 0.05})
    for name, rows in (("metrics", metrics), ("differences", differences)):
        pd.DataFrame(rows).to_csv(run.path("results", f"{name}.csv"), index=False)
    run.path("results", "results.json").write_text('{"base": "base", "decisive": "gold"}')


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a notebook 04 that shows a verdict, wide tables, an example with hostile text, and two figures."""
    folder = tmp_path_factory.mktemp("report")
    run = Run("report", folder)
    verdict = {"kind": "better", "advice": "use hybrid", "headline": f"It helped. {NASTY} Advice: use hybrid.",
               "next_steps": ["Embed the whole collection again."]}  # fmt: skip
    run.record("04_evaluate_models", verdict=verdict)
    write_results(run)
    frame = pd.DataFrame(
        {"outcome": ["win"], "question": [NASTY], "base_rank": [3.0], "rank": [np.nan], "change": [0.5],
         "expected_text": [NASTY], "base_first_text": [NASTY], "first_text": [None]}
    )  # fmt: skip
    lengths = plots.plot_chunk_lengths([10, 300], 256)
    curve = plots.plot_hit_rate_by_k(
        pd.DataFrame({"question_set": "gold", "system": ["a", "b"], "query": "q", "rank": [1, 5]})
    )
    answer = Verdict("better", "use it", f"Fine-tuning helped. {NASTY}", [NASTY], [NASTY], [])
    outputs = [
        {"text/html": answer._repr_html_(), "text/plain": str(answer)},
        {"text/html": examples_html(frame).data},
        {"text/html": frame._repr_html_()},
        {
            "text/html": pd.DataFrame(
                [[0.123456] * 14], columns=[f"measure_number_{i}" for i in range(14)]
            )._repr_html_()
        },
        *({"image/png": png(figure, folder)} for figure in (lengths, curve)),
    ]
    cells = [
        nbformat.v4.new_markdown_cell(
            "# 04 Evaluate models\n\nWhat was found, with $x^2$ & a `name`.\n\n## What moved\n\nFolded."
        )
    ]
    for data in outputs:
        cell = nbformat.v4.new_code_cell("secret_code = 1")
        cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
        cells.append(cell)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), run.folder / "04_evaluate_models.ipynb")
    return write_report(run.folder)


def loads_from_elsewhere(page: str) -> list[str]:
    return re.findall(r"""(?:src|srcset)=["']?https?:[^"'\s>]*|<link[^>]*href=["']?https?:[^>]*|@import[^;]*""", page)


def test_the_report_is_one_file_that_loads_nothing(report):
    page = report.read_text(encoding="utf-8")
    assert loads_from_elsewhere(page) == []
    assert "secret_code" not in page
    assert loads_from_elsewhere('<script src="https://example.org/x.js"></script>') != []


@pytest.mark.slow
@needs_browser
def test_the_report_opens_without_console_errors_and_with_its_figures(report, tmp_path):
    shot = tmp_path / "report.png"
    result = browse(report, tmp_path, f"--screenshot={shot}")
    assert console(result) == []
    assert shot.stat().st_size > 50_000
    page = browse(report, tmp_path, "--dump-dom").stdout
    assert page.count("data:image/png;base64") == 3
    title = re.search(r"<title>(.*?)</title>", page).group(1)
    assert "broken" not in title and "report" in title
    assert "Fine-tuning helped." in page


MEASURE = """<script>onload = () => {
  const folds = [...document.querySelectorAll("body > details")], first = document.querySelector("figure").getBoundingClientRect();
  const closed = folds.filter(each => !each.open).length; folds.forEach(each => each.open = true);
  document.body.dataset.seen = [closed, folds.length, Math.round(first.bottom),
    document.documentElement.scrollWidth - document.documentElement.clientWidth,
    [...document.querySelectorAll("img")].filter(each => each.getBoundingClientRect().right > innerWidth).length].join(" ");
}</script>"""


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [1100, 600])
def test_the_first_screen_says_what_to_deploy_the_rest_folds_and_nothing_is_wider_than_the_page(
    report, tmp_path, width
):
    page = tmp_path / "measured.html"
    page.write_text(report.read_text(encoding="utf-8") + MEASURE, encoding="utf-8")
    dom = browse(page, tmp_path, f"--window-size={width},900", "--dump-dom").stdout
    closed, folds, bottom, beyond, cut = map(int, re.search(r'data-seen="([-\d ]+)"', dom)[1].split())
    assert closed == folds == 1
    assert bottom < 900 and beyond <= 0 and cut == 0
    assert "Deploy the fine-tuned model together with keyword search (BM25)." in dom
    assert "Embed the whole collection again." in dom.split("<details")[0]
    assert "Share of 80 gold questions that find" in dom


@pytest.mark.slow
@needs_browser
def test_this_test_would_see_a_console_error(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<title>x</title><script>console.error('lost'); nowhere()</script>")
    messages = console(browse(page, tmp_path, "--dump-dom"))
    assert any("lost" in message for message in messages) and any("nowhere" in message for message in messages)


@pytest.mark.slow
@needs_browser
def test_the_report_prints(report, tmp_path):
    import pypdfium2

    file = tmp_path / "report.pdf"
    browse(report, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={file}")
    with pypdfium2.PdfDocument(file) as pdf:
        text = "".join(page.get_textpage().get_text_range() for page in pdf)
        images = sum(1 for page in pdf for item in page.get_objects() if item.type == 3)
    assert "Fine-tuning helped." in text and "What to do next" in text, "what is folded is printed too"
    assert images >= 3


@pytest.mark.slow
@needs_browser
def test_a_real_report_opens_cleanly(tmp_path, project):
    """The report that $NBUTILS_REPORT names, else one made of the committed notebook 04."""
    page = Path(os.environ["NBUTILS_REPORT"]) if os.environ.get("NBUTILS_REPORT") else None
    if page is None:
        source = project / "notebooks" / "04_evaluate_models.ipynb"
        if not source.is_file() or not any(c.get("outputs") for c in nbformat.read(source, as_version=4).cells):
            pytest.skip("notebook 04 holds no outputs yet")
        run = Run("real", tmp_path)
        run.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, run.folder / source.name)
        page = write_report(run.folder)
    assert loads_from_elsewhere(page.read_text(encoding="utf-8")) == []
    shot = Path(os.environ.get("NBUTILS_SCREENSHOT", tmp_path / "real.png"))
    assert console(browse(page, tmp_path, f"--screenshot={shot}")) == []
    assert browse(page, tmp_path, "--dump-dom").stdout.count("data:image/png") >= 4
    assert shot.stat().st_size > 10_000
