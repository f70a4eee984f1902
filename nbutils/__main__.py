"""The command line: `nbutils run`, `nbutils params`, `nbutils report`, …; one thin function a command."""

import argparse
import sys

from nbutils import runs
from nbutils.common import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 a step failed, 2 wrong input."""
    parser = argparse.ArgumentParser(prog="nbutils", description="Fine-tune an embedding model on your own documents.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="run notebooks 01 to 04 on any files")
    command.add_argument(
        "--name", default="tutorial", help="the run's name: its folder in outputs/ (default: tutorial)"
    )
    command.add_argument("--profile", help="a name in notebooks/profiles, or a YAML file")
    command.add_argument("-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"), dest="parameters",
                         help="set a parameter; repeat it for a list, such as several TRAIN_FILES")  # fmt: skip
    command.add_argument("--fresh", action="store_true", help="do steps again that are up to date")
    command.set_defaults(function=run)

    command = commands.add_parser("params", help="print every parameter of every notebook")
    command.set_defaults(function=params)

    command = commands.add_parser("report", help="write a run's report.html again")
    command.add_argument("--name", default="tutorial")
    command.set_defaults(function=report)

    command = commands.add_parser("notebooks", help="run the tutorial and refresh the committed notebooks' outputs")
    command.set_defaults(function=notebooks)

    options = parser.parse_args(arguments)
    try:
        return options.function(options) or 0
    except UserError as error:
        print(f"nbutils: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nnbutils: stopped; the same command continues where it stopped.", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    """Run the chain and print its closing table."""
    result = runs.run(options.name, collect(options.parameters), profile=options.profile, fresh=options.fresh, say=_say)
    if result.status == "failed":
        print(f"nbutils: {result.failed_step}: {result.error}", file=sys.stderr)
        print(
            f"nbutils: the notebook as far as it ran: {result.folder / result.failed_step}.ipynb",
            file=sys.stderr,
        )
        return 1
    if result.metrics is not None:
        print("\n" + result.metrics.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"\nReport: {result.report}")
    return 0


def params(options: argparse.Namespace) -> None:
    """Print every parameter with its type, default and meaning, a notebook at a time."""
    notebook = None
    for parameter in runs.all_parameters():
        if parameter.notebook != notebook:
            notebook = parameter.notebook
            print(f"\n{notebook}")
        print(f"  {parameter.name} ({parameter.type}) = {parameter.default!r}\n      {parameter.help}")


def report(options: argparse.Namespace) -> None:
    """Write report.html of a run that is done."""
    this = runs.Run(options.name)
    this.need(*runs.CHAIN[-1].makes)
    print(runs.write_report(this))


def notebooks(options: argparse.Namespace) -> None:
    """Refresh the committed notebooks."""
    runs.refresh_notebooks(_say)


def collect(pairs: list[list[str]]) -> dict[str, str | list[str]]:
    """Return `-p` pairs as a dict; a name given several times becomes a list."""
    values: dict[str, str | list[str]] = {}
    for name, value in pairs:
        if name in values:
            values[name] = [*(values[name] if isinstance(values[name], list) else [values[name]]), value]
        else:
            values[name] = value
    return values


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
