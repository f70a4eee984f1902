"""The notebooks' parameters: read from their cells tagged `parameters`, converted to the declared types, checked."""

import ast
import contextlib
import difflib
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from nbutils.core import UserError, first_line, project_folder
from nbutils.corpus.chunks import check_header
from nbutils.corpus.files import find_files, is_url, resolve
from nbutils.models.names import is_service

CHAIN_NOTEBOOKS = ("01_build_corpus", "02_generate_questions", "03_finetune_embedding", "04_evaluate_models")
FILE_PARAMETERS = ("TRAIN_FILES", "VAL_FILES", "PAIRS", "EXAMPLE_QUESTIONS", "TRAIN_ON_GOLD", "GOLD_QUESTIONS")
CHOICES = {
    "ENGINE": ("nbutils", "adapter", "llama-index"),
    "ON_UNREADABLE": ("skip", "fail"),
    "BAD_ROWS": ("fail", "skip"),
    "TRAIN_ON": ("all", "train"),
}
AT_LEAST = {"CHUNK_SIZE": 16, "CONCURRENCY": 1, "TOP_K": 1}  # other numbers: 0
MAY_BE_EMPTY = ("GOLD_QUESTIONS", "PAIRS", "OPENAI_MODEL")  # and every text whose default is empty
SECRETS = re.compile(
    r"\bsk-[\w-]*[A-Za-z0-9]{20}|\bhf_[A-Za-z0-9]{20}|\bgh[pos]_\w{30}|\bAKIA[A-Z0-9]{16}\b"
    r"|://[^/\s@]+:[^/\s@]+@|[?&](?:api_?-?key|access_token|token|secret|password|sig|signature)=[^&\s]{8}",
    re.IGNORECASE,
)
_SCALAR = TypeAdapter(Annotated[int | float | bool | str, Field(union_mode="left_to_right")])


def _scalar(value: Any) -> Any:
    return _SCALAR.validate_python(value) if isinstance(value, str) else value


_ADAPTERS = {
    "str": TypeAdapter(str, config=ConfigDict(coerce_numbers_to_str=True)), "list": TypeAdapter(list[str]),
    "int": TypeAdapter(int), "float": TypeAdapter(float), "bool": TypeAdapter(bool),
    "dict": TypeAdapter(dict[str, Annotated[Any, BeforeValidator(_scalar)]]),
}  # fmt: skip


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: $NBUTILS_NOTEBOOKS, or the project's."""
    return Path(os.environ.get("NBUTILS_NOTEBOOKS") or project_folder() / "notebooks")


def read_notebook(step: str) -> dict[str, Any]:
    """Return a notebook of that folder, named without its ending, as JSON."""
    return json.loads((notebooks_folder() / f"{step}.ipynb").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Parameter:
    """A notebook's parameter as papermill sees it: name, type name, default and the comment that explains it."""

    name: str
    type: str
    default: Any
    help: str
    notebook: str

    def convert(self, value: Any) -> Any:
        """Return `value` as this parameter's type; text from a command line or a file means what it says.

        Raises:
            UserError: the value is not of the parameter's type, empty, too low a number, or holds a key or password.
        """
        given, kind = value, self.type.partition("[")[0]
        if kind == "list":
            value = [str(item) for item in (value if isinstance(value, list | tuple) else list_items(str(value)))]
        elif kind == "dict" and isinstance(value, str):
            value = read_yaml(value)
        elif isinstance(value, Path):
            value = str(value)
        try:
            if isinstance(value, bool) and kind != "bool":
                raise TypeError
            value = _ADAPTERS[kind].validate_python(value)
        except (ValidationError, TypeError) as error:
            meant = f"it must be of type {self.type}, such as {self.default!r}"
            raise UserError(f"Parameter {self.name} is {given!r}; {meant}.") from error
        self._check(value)
        return value

    def _check(self, value: Any) -> None:
        if SECRETS.search(json.dumps(value, ensure_ascii=False, default=str)):
            found = f"Parameter {self.name} holds what looks like an API key or a password"
            raise UserError(f"{found}. Keys come from the environment only.")
        empty = self.type == "str" and self.default and not value.strip() and self.name not in MAY_BE_EMPTY
        if empty or (self.type == "list" and not all(each.strip() for each in value)):
            raise UserError(f"Parameter {self.name} is empty. Give it a value, or leave it out for its default.")
        if self.type in ("int", "float") and not value >= AT_LEAST.get(self.name, 0):
            raise UserError(f"Parameter {self.name} is {value}; it must be at least {AT_LEAST.get(self.name, 0)}.")


def list_items(text: str) -> list:
    """Return the items of a list written as "[a, b]"; other text, a file's name in brackets too, is the only item."""
    with contextlib.suppress(UserError):
        if text.strip().startswith("[") and isinstance(value := read_yaml(text), list):
            return value
    return [text]


def read_yaml(text: str) -> Any:
    """Return YAML with every scalar as text; the parameters' types say what it means (so 0512 is 512, and `no` is Norway)."""
    try:
        return yaml.load(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"This is not valid YAML: {first_line(error)}.") from error


def notebook_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name, read from its cell tagged `parameters`.

    The same as `papermill.inspect_notebook` finds, without importing papermill, which takes over a second.
    """
    path = Path(notebook) if str(notebook).endswith(".ipynb") else notebooks_folder() / f"{notebook}.ipynb"
    return dict(_parameters_in(path, path.stat().st_mtime_ns))


@functools.lru_cache
def _parameters_in(path: Path, changed: int) -> dict[str, Parameter]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    source = "".join(tagged[0]) if tagged else ""
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
            default = ast.literal_eval(node.value)
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else type(default).__name__
            value = node.value
            comment = lines[value.end_lineno - 1].encode()[value.end_col_offset :].decode().strip(") ").lstrip("# ")
            found[name] = Parameter(name, kind, default, comment, path.stem)
    return found


def all_parameters(notebooks: Iterable[str] = CHAIN_NOTEBOOKS) -> list[Parameter]:
    """Return every parameter of every notebook of the chain."""
    return [parameter for notebook in notebooks for parameter in notebook_parameters(notebook).values()]


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked values with the defaults of all other parameters of the chain."""
    return {parameter.name: parameter.default for parameter in all_parameters()} | dict(values)


def read_profile(profile: str | Path | None) -> dict[str, Any]:
    """Return the parameters of a profile: the name of a file in notebooks/profiles, or a YAML file's path."""
    if profile is None:
        return {}
    folder = notebooks_folder() / "profiles"
    path = Path(profile) if str(profile).endswith((".yaml", ".yml")) else folder / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in folder.glob("*.yaml")))
        raise UserError(f"There is no profile {profile!r}. Use one of {known}, or the path of a YAML file.")
    try:
        values = read_yaml(path.read_text(encoding="utf-8")) or {}
    except (UserError, UnicodeDecodeError) as error:
        raise UserError(f"Profile {profile} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"Profile {profile} must map parameter names to values, one `NAME: value` per line.")
    return values


def check_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` converted to the types that the notebooks declare; a UserError names the first that is wrong."""
    known = {parameter.name: parameter for parameter in all_parameters()}
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"Did you mean {close[0]}?" if close else "`nbutils params` lists them all."
            raise UserError(f"There is no parameter {name}. {hint}")
    return {name: known[name].convert(value) for name, value in values.items()}


def absolute_files(values: Mapping[str, Any], base: Path | None = None) -> dict[str, Any]:
    """Return checked values with files, folders and globs by their absolute paths, and URLs as they are.

    A relative path is looked for in the folder `base` before the working directory.
    """
    whole = dict(values)
    for name in (name for name in FILE_PARAMETERS if values.get(name) not in (None, "", "auto")):
        given = values[name]
        try:
            files = [resolve(file, base) for file in (given if isinstance(given, list) else [given])]
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        files = [file if is_url(file) else os.path.abspath(os.path.expanduser(file)) for file in files]
        whole[name] = files if isinstance(given, list) else files[0]
    return whole


def check_together(values: Mapping[str, Any]) -> None:
    """Make sure that a run's checked parameters fit one another and its files are there; a UserError names all mistakes."""
    values = with_defaults(values)
    is_adapter, size, overlap = values["ENGINE"] == "adapter", values["CHUNK_SIZE"], values["CHUNK_OVERLAP"]
    checks = {
        "TRAIN_FILES": lambda: find_files(values["TRAIN_FILES"]),
        "VAL_FILES": lambda: values["VAL_FILES"] and find_files(values["VAL_FILES"]),
        "CHUNK_HEADER": lambda: check_header(values["CHUNK_HEADER"]),
    }
    if values["OPTIONS"]:
        from nbutils.training.options import TrainingOptions, adapter_options  # loads huggingface_hub

        options = {"nbutils": TrainingOptions.of, "adapter": adapter_options}.get(values["ENGINE"], dict)
        checks["OPTIONS"] = lambda: options(**values["OPTIONS"])
    mistakes = []
    for name, check in checks.items():
        try:
            check()
        except UserError as error:
            mistakes.append(str(error) if name in str(error) else f"{name}: {error}")
    for name in ("PAIRS", "EXAMPLE_QUESTIONS", "TRAIN_ON_GOLD", "GOLD_QUESTIONS"):
        found_by_itself = values[name] == "auto" and name != "EXAMPLE_QUESTIONS"
        if values[name] and not found_by_itself and not Path(resolve(values[name])).is_file():
            mistakes.append(f"{name}: there is no file {values[name]}.")
    if is_adapter and values["MAX_SEQ_LENGTH"]:
        mistakes.append("MAX_SEQ_LENGTH cannot be set where ENGINE is adapter: chunks keep the vectors of the base.")
    if is_service(values["BASE_MODEL"]) and not is_adapter:
        mistakes.append(f"BASE_MODEL is {values['BASE_MODEL']}; only ENGINE adapter can learn on top of a service.")
    if values["TRAIN_ON_GOLD"] and values["TRAIN_ON"] != "all":
        mistakes.append("TRAIN_ON_GOLD teaches the model to deploy: it needs TRAIN_ON all.")
    if not values["QUESTIONS_PER_CHUNK"] and not values["PAIRS"]:
        mistakes.append("QUESTIONS_PER_CHUNK is 0 and PAIRS is empty: nothing would be left to learn from.")
    if overlap >= size:
        mistakes.append(f"CHUNK_OVERLAP is {overlap}; it must be below CHUNK_SIZE ({size}).")
    if not 0 < values["VALIDATION_SHARE"] < 1:
        mistakes.append(f"VALIDATION_SHARE is {values['VALIDATION_SHARE']}; it must lie between 0 and 1.")
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            mistakes.append(f"{name} is {values[name]!r}; use one of {', '.join(choices)}.")
    if mistakes:
        raise UserError(" ".join(mistakes))


def check_name(name: str) -> str:
    """Return a run's name; a UserError says which letters it may have, so that the run stays in the outputs folder."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        advice = "use letters, digits, '.', '_' and '-' only, so that the run stays in outputs/"
        raise UserError(f"RUN_NAME is {name!r}; {advice}.")
    return name
