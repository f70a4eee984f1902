"""Plans as people write them."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from short_chain import documents

from nbutils.core import UserError
from nbutils.pipeline.parameters import check_name
from nbutils.pipeline.plan import read_plan


@pytest.fixture
def files(tmp_path):
    return documents(tmp_path / "documents", a="a", b="b", c="c")


def plan_of(tmp_path, text: str, name="plan.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_plan(tmp_path / name, **options)


def test_a_csv_gives_a_run_a_row_with_typed_values(tmp_path, files):
    plan = plan_of(
        tmp_path,
        "\ufeffname,TRAIN_FILES,CHUNK_SIZE,LEARNING_RATE,timeout\n"
        'one,"[documents/a.txt, documents/b.txt]",128,2e-5,60\n\ntwo,documents/c.txt,,,\n',
    )
    assert [run.name for run in plan] == ["one", "two"]
    assert plan[0].parameters == {
        "TRAIN_FILES": [str(files / "a.txt"), str(files / "b.txt")], "CHUNK_SIZE": 128, "LEARNING_RATE": 2e-5,
    }  # fmt: skip
    assert (plan[0].timeout, plan[1].timeout) == (60.0, None)
    assert plan[1].parameters == {"TRAIN_FILES": [str(files / "c.txt")]}


def test_semicolons_and_globs_as_spreadsheets_and_people_write_them(tmp_path, files):
    plan = plan_of(tmp_path, "name;TRAIN_FILES;TOP_K\nx;documents/*.txt;3\n")
    assert plan[0].parameters == {"TRAIN_FILES": [str(files / "*.txt")], "TOP_K": 3}


def test_lists_make_a_grid_and_lists_of_lists_for_a_list(tmp_path, files):
    plan = plan_of(
        tmp_path,
        "- name: sweep\n  CHUNK_SIZE: [128, 256]\n  ENGINE: [nbutils, llama-index]\n"
        "  TRAIN_FILES: [documents/a.txt, documents/b.txt]\n"
        "- name: files\n  TRAIN_FILES: [[documents/a.txt], [documents/b.txt, documents/c.txt]]\n",
        "plan.yaml",
    )
    assert [run.name for run in plan] == [
        "sweep.chunk_size-128.engine-nbutils", "sweep.chunk_size-128.engine-llama-index",
        "sweep.chunk_size-256.engine-nbutils", "sweep.chunk_size-256.engine-llama-index",
        "files.train_files-a", "files.train_files-b-1",
    ]  # fmt: skip
    assert all(len(run.parameters["TRAIN_FILES"]) == 2 for run in plan[:4])
    assert [len(run.parameters["TRAIN_FILES"]) for run in plan[4:]] == [1, 2]


def test_a_folder_gives_a_run_a_document(files):
    plan = read_plan(files)
    assert [run.name for run in plan] == ["a", "b", "c"]
    assert plan[0].parameters == {"TRAIN_FILES": [str(files / "a.txt")], "VAL_FILES": []}
    held = read_plan(files, hold_out=[files / "b.txt"], parameters={"EPOCHS": "1"})
    assert [run.name for run in held] == ["a", "c"]
    assert all(run.parameters["VAL_FILES"] == [str(files / "b.txt")] for run in held)
    assert all(run.parameters["EPOCHS"] == 1 for run in held)


def test_documents_of_one_name_and_of_odd_names_get_runs_of_their_own(tmp_path):
    folder = documents(tmp_path / "d", **{"Geschäft 2023 (final)": "x", "年报": "y", "-x": "z"})
    documents(folder / "sub", **{"Geschäft 2023 (final)": "x"})
    names = [run.name for run in read_plan(folder)]
    assert len(set(names)) == 4
    assert all(check_name(name) for name in names)
    assert sum(name.startswith("Geschaft-2023-final") for name in names) == 2


def test_every_mistake_of_a_plan_is_told_at_once(tmp_path, files):
    with pytest.raises(UserError) as caught:
        plan_of(
            tmp_path,
            "Name,TRAIN_FILES,CHUNK_SIZE,timeout\nx,nowhere.pdf,128,\ny,documents/a.txt,many,soon\n"
            "x,documents/a.txt,64,\n../z,documents/a.txt,64,\nt,documents/a.txt,64,9,9\nu,documents/a.txt,32,\n",
        )
    expected = [
        "line 2|nowhere.pdf", "line 3|CHUNK_SIZE|timeout", "line 5|RUN_NAME", "line 6|more cells", "line 7|CHUNK_OVERLAP",
    ]  # fmt: skip
    for line, words in zip(str(caught.value).splitlines()[1:], expected, strict=True):
        assert all(word in line for word in words.split("|")), line


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plan.csv", "name,CHUNKSIZE\nx,1\n", "Did you mean CHUNK_SIZE"),
        ("plan.csv", "name,CHUNK_SIZE\nx,64,2\n", "line 2.*double quotes"),
        ("plan.csv", "name,CHUNK_SIZE\nx,64\nx,128\n", "line 3: the name x is taken by line 2"),
        ("plan.csv", "name,CHUNK_SIZE\n", "no rows"),
        ("plan.yaml", "- name: x\n  CHUNK_SIZE: []\n", "CHUNK_SIZE has an empty list"),
        ("plan.yaml", "- [1\n", "not valid YAML"),
        ("plan.yaml", "- 1\n", "maps parameter names"),
        ("plan.txt", "x", "is no plan"),
        ("plan.yaml", "RUN_NAME: x\n", "`name`, not RUN_NAME"),
        ("plan.yaml", "LLM: sk-" + "a" * 30, "environment only"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, text, name)
    with pytest.raises(UserError, match="There is no plan"):
        read_plan(tmp_path / "elsewhere.csv")


def test_the_plans_in_the_readme_can_be_run(project, tmp_path):
    blocks = re.findall(r"```(csv|yaml)\n(.*?)```", (project / "README.md").read_text(), re.DOTALL)
    plans = [(kind, text) for kind, text in blocks if "name" in text]
    if not plans:
        pytest.skip("README.md shows no plan")
    names = [run.name for kind, text in plans for run in plan_of(tmp_path, text, f"plan.{kind}")]
    assert "short" in names and "sizes.chunk_size-384" in names and "sweep.epochs-4" in names
    assert "which.train_files-brackwater_2024" in names


@settings(max_examples=30, deadline=None)
@given(
    grid=st.dictionaries(
        st.sampled_from(["CHUNK_SIZE", "EPOCHS", "SEED", "PROMPT", "LEARNING_RATE"]),
        st.lists(st.integers(41, 10**6), min_size=1, max_size=3, unique=True), min_size=1,
    )
)  # fmt: skip
def test_a_grid_has_every_combination_once_under_a_name_of_its_own(grid, tmp_path_factory):
    text_grid = {key: [str(v) for v in values] if key == "PROMPT" else values for key, values in grid.items()}
    plan = plan_of(tmp_path_factory.mktemp("plan"), yaml.safe_dump({"name": "g"} | text_grid), "plan.yaml")
    combinations = {tuple(sorted((key, str(value)) for key, value in run.parameters.items())) for run in plan}
    size = 1
    for values in grid.values():
        size *= len(values)
    assert len(plan) == len(combinations) == len({run.name for run in plan}) == size
