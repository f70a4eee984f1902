"""Put what a notebook needs into a run's folder, from a run that was made beforehand.

    python notebooks/workshop/checkpoint.py READY 3     # READY: the prepared folder, outputs/tutorial of another machine
                                                        # 3: the notebook to go on with (2 to 6)

What the run's folder held is kept beside it.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

from nbutils.core import UserError, outputs_root, write_atomic
from nbutils.pipeline.run import Run
from nbutils.pipeline.steps import CHAIN


def restore(ready: Path, step: int, name: str = "tutorial") -> Run:
    """Copy the files of all notebooks before number `step` from a prepared run, with their entries in run.json.

    Raises:
        UserError: there is no such step, or the prepared folder lacks a file.
    """
    if step not in range(2, 7):
        raise UserError(f"There is nothing to fetch for notebook {step}. Use 2, 3, 4, 5 or 6.")
    before = CHAIN[: step - 1]
    files = list(dict.fromkeys(file.split("/")[0] for each in before for file in each.makes))  # folders as a whole
    if "model" in files and (ready / "dev_dataset.json").exists():
        files.append("dev_dataset.json")
    for file in ["run.json", *files]:
        if not (ready / file).exists():
            raise UserError(f"{ready / file} is missing. Prepare the folder with `nbutils run --name tutorial`.")
    here = outputs_root() / name
    if here.exists():
        kept, number = here.with_name(f"{name}-before"), 1
        while kept.exists():
            number += 1
            kept = here.with_name(f"{name}-before-{number}")
        here.rename(kept)
        print(f"What was in {here.name}/ is now in {kept.name}/.")
    run = Run(name)
    for file in files:
        target = run.path(file)
        (shutil.copytree if (ready / file).is_dir() else shutil.copy2)(ready / file, target)
    record = json.loads((ready / "run.json").read_text(encoding="utf-8"))
    record["name"] = name
    record["steps"] = {each.name: record["steps"][each.name] for each in before if each.name in record["steps"]}
    write_atomic(run.path("run.json"), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ready", type=Path, help="folder of a run made beforehand")
    parser.add_argument("step", type=int, help="number of the notebook to go on with")
    parser.add_argument("--name", default="tutorial", help="the run to put it in (default: tutorial)")
    options = parser.parse_args(arguments)
    try:
        run = restore(options.ready, options.step, options.name)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"Ready for notebook {options.step}, RUN_NAME = {run.name!r}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
