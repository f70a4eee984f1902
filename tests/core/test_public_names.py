"""The public names, imported together in any order."""

import inspect
import itertools
import subprocess
import sys

import nbutils


def test_public_names_are_functions_and_classes_in_whatever_order_they_are_imported():
    orders = [nbutils.__all__, nbutils.__all__[::-1], ["compare_models", "evaluate"], ["evaluate", "compare_models"]]
    code = (
        "import sys, importlib, inspect\n"
        "importlib.import_module(sys.argv[1])\n"
        "names = sys.argv[2].split()\n"
        "exec(f\"from nbutils import {', '.join(names)}\")\n"
        "assert all(inspect.isfunction(globals()[n]) or inspect.isclass(globals()[n]) for n in names)"
    )
    for order, first in itertools.product(orders[2:], ["nbutils.evaluation.verdict", "nbutils.corpus.chunks"]):
        subprocess.run([sys.executable, "-c", code, first, " ".join(order)], check=True)
    for order in orders[:2]:
        subprocess.run([sys.executable, "-c", code, "nbutils", " ".join(order)], check=True)


def test_public_names_are_listed_and_others_are_refused():
    assert set(nbutils.__all__) <= set(dir(nbutils))
    assert all(inspect.getdoc(getattr(nbutils, name)) for name in nbutils.__all__)
    try:
        nbutils.nothing  # noqa: B018
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise AssertionError("an unknown name was found")
