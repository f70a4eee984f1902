"""The public names, imported together in any order."""

import inspect
import itertools
import subprocess
import sys

import pytest

import nbutils

FORKS = """
import inspect, importlib, os, sys
import datasets, llama_index.core, pandas, sentence_transformers, transformers  # once for all; of ours nothing yet
assert not any(name.startswith("nbutils.") for name in sys.modules)
for line in sys.stdin:
    first, *names = line.split()
    if child := os.fork():
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, line
        continue
    importlib.import_module(first)
    exec(f"from nbutils import {', '.join(names)}")
    assert all(inspect.isfunction(globals()[name]) or inspect.isclass(globals()[name]) for name in names)
    sys.stdout.flush()
    os._exit(0)
"""


@pytest.mark.slow
def test_public_names_are_functions_and_classes_in_whatever_order_they_are_imported():
    two = ["compare_models", "evaluate"]
    orders = [("nbutils", nbutils.__all__), ("nbutils", nbutils.__all__[::-1])]
    orders += itertools.product(["nbutils.evaluation.verdict", "nbutils.corpus.chunks"], [two, two[::-1]])
    lines = "".join(f"{first} {' '.join(names)}\n" for first, names in orders)
    subprocess.run([sys.executable, "-c", FORKS], input=lines, text=True, check=True)


def test_public_names_are_listed_and_others_are_refused():
    assert set(nbutils.__all__) <= set(dir(nbutils))
    assert all(inspect.getdoc(getattr(nbutils, name)) for name in nbutils.__all__)
    try:
        nbutils.nothing  # noqa: B018
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise AssertionError("an unknown name was found")
