"""Plans: a CSV or YAML file, or a folder of documents, read into runs with checked parameters."""

import csv
import io
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat, TypeAdapter, ValidationError

from nbutils.core import UserError, content_hash
from nbutils.corpus.files import find_files
from nbutils.pipeline.parameters import (
    absolute_files,
    all_parameters,
    check_name,
    check_parameters,
    check_together,
    list_items,
    read_profile,
    read_yaml,
)

TOO_MANY = "cells without a column"


@dataclass(frozen=True)
class PlannedRun:
    """One run of a batch: its name, its checked parameters, and the seconds it may take (None: no limit)."""

    name: str
    parameters: dict[str, Any]
    timeout: float | None = None


def read_plan(
    plan: str | Path,
    *,
    hold_out: Sequence[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    profile: str | Path | None = None,
    prefix: str = "",
) -> list[PlannedRun]:
    """Read a plan and check all of it.

    Args:
        plan: a CSV file (one row per run; columns `name`, `timeout` in seconds, and any parameters; an empty cell is
            the default), a YAML file (a list of such rows, or one), or a folder, each of whose documents is a run.
            Paths are relative to the plan, else to the working directory.
            Several values for a parameter make a grid, one run for each combination: `[256, 512]`. For one that is
            itself a list, such as TRAIN_FILES, `[a.pdf, b.pdf]` is one value and `[[a.pdf], [b.pdf]]` are two.
        hold_out: for a folder: the files that all runs are validated on, instead of pages of each document's own.
        parameters: for all runs; a row's own win.
        profile: as for `nbutils.pipeline.run.run`; `parameters` win.
        prefix: for a folder: what the names of its runs begin with.

    Raises:
        UserError: the plan cannot be read, or rows are wrong; the message names every one of them.
    """
    rows, base = _rows(Path(plan).expanduser(), hold_out, prefix)
    if not rows:
        raise UserError(f"The plan {plan} has no rows. Add one for each run.")
    common = {**read_profile(profile), **(parameters or {})}
    planned, mistakes, first = [], [], {}
    for where, row in rows:
        try:
            expanded = _expand({**common, **row}, base)
        except UserError as error:
            mistakes.append(f"{where}: {error}")
            continue
        for run in expanded:
            if first.setdefault(run.name, where) != where:
                mistakes.append(f"{where}: the name {run.name} is taken by {first[run.name]}. Give each run its own.")
        planned += expanded
    if mistakes:
        raise UserError(f"The plan {plan} cannot be run as it is:\n" + "\n".join(f"  {each}" for each in mistakes))
    return planned


def default_name(plan: str | Path) -> str:
    """Return the name of a plan's batch: that of its file or folder."""
    return _name_of(Path(plan).expanduser().resolve().stem)


def _rows(path: Path, hold_out: Sequence[str | Path], prefix: str) -> tuple[list[tuple[str, dict]], Path]:
    """Return a plan's rows, each with the words for where it stands, and the folder that its paths are relative to."""
    if path.is_dir():
        return _folder_rows(path, hold_out, prefix), Path.cwd()
    if hold_out:
        raise UserError(f"--hold-out goes with a folder of documents; {path} is not one. Use VAL_FILES in the plan.")
    readers = {".csv": _csv_rows, ".yaml": _yaml_rows, ".yml": _yaml_rows}
    if not path.is_file() or path.suffix.lower() not in readers:
        raise UserError(f"There is no plan {path}. Name a CSV or YAML file, or a folder of documents.")
    try:
        return readers[path.suffix.lower()](path.read_text(encoding="utf-8-sig")), path.resolve().parent
    except (UnicodeDecodeError, UserError) as error:
        raise UserError(f"The plan {path} cannot be read as CSV or YAML in UTF-8: {error}") from error


def _csv_rows(text: str) -> list[tuple[str, dict]]:
    # the csv module, since pandas can't say on which line a row stands
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey=TOO_MANY, skipinitialspace=True)
    rows = []
    for cells in reader:
        more = {TOO_MANY: cells.pop(TOO_MANY)} if TOO_MANY in cells else {}
        row = {str(name).strip(): cell.strip() for name, cell in cells.items() if cell and cell.strip()} | more
        if row:
            rows.append((f"line {reader.line_num}", row))
    return rows


def _yaml_rows(text: str) -> list[tuple[str, dict]]:
    content = read_yaml(text)
    rows = [content] if isinstance(content, dict) else content or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError("It must be a list of rows, each of which maps parameter names to values.")
    return [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _folder_rows(folder: Path, hold_out: Sequence[str | Path], prefix: str) -> list[tuple[str, dict]]:
    held = [str(Path(file).resolve()) for file in find_files(list(hold_out))] if hold_out else []
    files = [str(Path(file).resolve()) for file in find_files(folder)]
    files = [file for file in files if file not in held]
    if not files:
        raise UserError(f"Every document in {folder} is held out. Leave at least one to train on.")
    stems = [_name_of(Path(file).stem) for file in files]
    rows = []
    for file, stem in zip(files, stems, strict=True):
        inside = os.path.relpath(file, folder.resolve())
        name = prefix + (stem if stems.count(stem) == 1 else f"{stem}-{content_hash(inside, length=6)}")
        rows.append((inside, {"name": name, "TRAIN_FILES": [file], "VAL_FILES": held}))
    return rows


def _expand(row: Mapping[str, Any], base: Path) -> list[PlannedRun]:
    """Return the runs that a row stands for, one for each combination; a UserError names all wrong cells."""
    row = {key.lower() if key.lower() in ("name", "timeout") else key: value for key, value in row.items()}
    name, timeout = row.pop("name", None), row.pop("timeout", None)
    choices, mistakes = {}, []
    try:
        timeout = TypeAdapter(PositiveFloat | None).validate_python(timeout)
    except ValidationError:
        mistakes.append("timeout must be a number of seconds above 0.")
    for key, cell in row.items():
        try:
            choices[key] = _choices(key, cell, base)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError(" ".join(mistakes))
    several = [key for key, values in choices.items() if len(values) > 1]
    expanded: dict[str, PlannedRun] = {}
    for combination in itertools.product(*choices.values()):
        values = dict(zip(choices, combination, strict=True))
        check_together(values)
        base_name = str(name) if name is not None else _name_of(Path((values.get("TRAIN_FILES") or ["run"])[0]).stem)
        own = ".".join([base_name, *(f"{key.lower()}-{_name_of(_text(values[key]))}" for key in several)])
        if len(own) > 100 or own in expanded:
            own = f"{own[:90]}-{content_hash(json.dumps(values, sort_keys=True), length=8)}"
        check_name(own)
        expanded[own] = PlannedRun(own, values, timeout)
    return list(expanded.values())


def _choices(name: str, cell: Any, base: Path) -> list:
    """Return the checked alternatives that a cell holds: several in a list, for a list parameter in a list of lists."""
    if name == TOO_MANY:
        more = f"there are more cells than columns: {', '.join(cell)}"
        raise UserError(f"{more}. Put a cell with a comma in double quotes.")
    if name == "RUN_NAME":
        raise UserError("the run's name goes into `name`, not RUN_NAME.")
    if isinstance(cell, str) and cell.startswith("["):
        cell = list_items(cell)
    is_list = any(parameter.name == name and parameter.type == "list" for parameter in all_parameters())
    if not isinstance(cell, list) or (is_list and not (cell and all(isinstance(item, list) for item in cell))):
        cell = [cell]
    if not cell:
        raise UserError(f"Parameter {name} has an empty list of values. Name at least one.")
    return [absolute_files(check_parameters({name: value}), base)[name] for value in cell]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return Path(value[0]).stem + (f"+{len(value) - 1}" if len(value) > 1 else "") if value else "none"
    return str(value)


def _name_of(text: str) -> str:
    """Return a text as part of a run's name."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:60]
    return name or f"run-{content_hash(text, length=6)}"
