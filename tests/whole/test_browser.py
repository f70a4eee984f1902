"""JupyterLab as people see it: a real server, a real Chromium, and the menu."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from tiny_run import make_tiny_run

from nbutils.pipeline import run as runs

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SHOTS = os.environ.get("NBUTILS_SHOTS")  # a folder for screenshots to look at
SHOTS_RUN = os.environ.get("NBUTILS_SHOTS_RUN")  # an outputs folder whose run `tutorial` they show, not a tiny one


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium", reason="selenium is not installed (pip install -e '.[dev]')")
    if not CHROMIUM or not DRIVER:
        pytest.skip("no Chromium with its driver here (apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    if SHOTS_RUN:
        return Path(SHOTS_RUN)
    root = tmp_path_factory.mktemp("outputs")
    make_tiny_run(root)
    return root


@pytest.fixture(scope="module")
def lab(project, outputs, tmp_path_factory):
    """JupyterLab on a copy of the notebooks without their outputs; gives the address of a notebook by its name."""
    root = tmp_path_factory.mktemp("lab")
    for source in (project / "notebooks").glob("*.ipynb"):
        notebook = json.loads(source.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
                if source.name.startswith("06") and not SHOTS_RUN:
                    source_code = "".join(cell["source"]).replace('"tutorial"', '"tiny"')
                    cell["source"] = re.sub(r"FILES: list = \[.*?\]", "FILES: list = []", source_code)
        (root / source.name).write_text(json.dumps(notebook), encoding="utf-8")
    settings = root / ".settings" / "@jupyterlab"
    wanted = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "apputils-extension/themes": {"theme": os.environ.get("NBUTILS_THEME", "JupyterLab Light")},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in wanted.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {"JUPYTERLAB_SETTINGS_DIR": ".settings", "JUPYTERLAB_WORKSPACES_DIR": ".spaces",
               "JUPYTER_RUNTIME_DIR": ".runtime", "JUPYTER_CONFIG_DIR": ".config"}  # fmt: skip
    environment = os.environ | {name: str(root / folder) for name, folder in folders.items()}
    environment["NBUTILS_OUTPUTS"] = str(outputs)
    log = open(root / "jupyter.log", "w")  # noqa: SIM115 (the server's, for as long as it lives)
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
         f"--ServerApp.port={port}", "--IdentityProvider.token=here", f"--ServerApp.root_dir={root}"],
        env=environment, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status?token=here", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (root / "jupyter.log").read_text()[-3000:]
                time.sleep(0.5)
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}.ipynb?token=here&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(120)
        log.close()


def wait_for(driver, script: str, seconds: float = 300):
    """Return the first true value of a script in the page."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := driver.execute_script(f"return ({script})"):
            return value
        time.sleep(0.25)
    shoot(driver, "timed_out")
    raise AssertionError(f"Not within {seconds} s: {script}")


def shoot(driver, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


def click(driver, script: str) -> None:
    """Click the element that a script returns, with a real mouse event."""
    from selenium.webdriver import ActionChains

    ActionChains(driver).move_to_element(wait_for(driver, script)).click().perform()


CODE = "[...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell')]"
PROMPTS = f"{CODE}.map(cell => cell.querySelector('.jp-InputPrompt').textContent)"


def run_all_cells(driver, address: str, seconds: float = 600) -> None:
    """Open a notebook, choose Run > Run All Cells from the menu, and wait until every cell has its number."""
    driver.get(address)
    wait_for(driver, f"{CODE}.length > 3")
    wait_for(driver, "document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')")
    click(driver, "[...document.querySelectorAll('.lm-MenuBar-item')].find(item => item.textContent === 'Run')")
    click(driver, "document.querySelector('.lm-Menu-item[data-command=\"runmenu:run-all\"]')")
    wait_for(driver, f"{PROMPTS}.some(text => /[*0-9]/.test(text))")
    done = f"{PROMPTS}.every(text => /^\\[\\d+\\]:$/.test(text))"
    error = "document.querySelector('.jp-RenderedText[data-mime-type=\"application/vnd.jupyter.stderr\"] .ansi-red-fg')"
    wait_for(driver, f"{error} || {done}", seconds)
    assert driver.execute_script(f"return {done}"), driver.execute_script(f"return ({error} || {{}}).textContent")


def show(driver, selector: str) -> None:
    driver.execute_script(
        "arguments[0].scrollIntoView({block: 'center'})", wait_for(driver, f"document.querySelector('{selector}')")
    )
    time.sleep(0.5)


def test_notebook_1_runs_by_the_menu_and_shows_its_bars_and_plots(browser, lab):
    run_all_cells(browser, lab("01_build_corpus"))
    images = f"{CODE}.flatMap(cell => [...cell.querySelectorAll('.jp-OutputArea img')])"
    plots = f"{images}.filter(image => image.naturalWidth > 300)"
    assert len(wait_for(browser, plots)) >= 3
    waiting = "[...document.querySelectorAll('.jp-OutputArea .progress-bar')].filter(bar => bar.style.width !== '100%')"
    wait_for(browser, f"{waiting}.length === 0")
    assert "Error displaying widget" not in browser.page_source
    shoot(browser, "01_top")
    show(browser, ".jp-OutputArea img")
    shoot(browser, "01_plot")
    last = browser.execute_script(f"return {CODE}.at(-1).querySelector('.jp-OutputArea').textContent")
    assert "01_build_corpus is done" in last


def test_the_search_box_answers_what_is_typed(browser, lab):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    run_all_cells(browser, lab("06_use_the_model"))
    field = browser.find_element(By.CSS_SELECTOR, ".jp-OutputArea .widget-text input")
    browser.execute_script("arguments[0].closest('.jp-CodeCell').previousElementSibling.scrollIntoView()", field)
    before = wait_for(browser, "document.querySelector('.jp-OutputArea .widget-html .nb-search').textContent")
    field.clear()
    field.send_keys("How did the company come about and what was its first cargo?", Keys.ENTER)
    after = wait_for(
        browser,
        "[...document.querySelectorAll('.jp-OutputArea .widget-html .nb-search')].map(e => e.textContent)"
        f".find(text => text !== {json.dumps(before)})",
    )
    assert "fine-tuned" in after
    assert "score" in after
    shoot(browser, "06_search_box")


def test_the_report_opens_without_an_error_and_with_its_figures(browser, outputs):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    from nbutils.pipeline.report import write_report
    from nbutils.plots.figures import plot_chunk_lengths

    png = base64.b64encode(plot_chunk_lengths([40, 90, 250, 300], 256)._repr_png_()).decode()
    run = runs.Run("tiny", outputs)
    cells = [
        new_markdown_cell("# Models compared\n\n$x$ and text"),
        new_code_cell("figure", outputs=[new_output("display_data", data={"image/png": png, "text/plain": "Figure"})]),
    ]
    nbformat.write(new_notebook(cells=cells), run.path("04_evaluate_models.ipynb"))
    write_report(run.folder)
    browser.get_log("browser")
    browser.get((run.folder / "report.html").as_uri())
    wait_for(browser, "document.images.length === 1 && document.images[0].naturalWidth > 300")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors, errors
