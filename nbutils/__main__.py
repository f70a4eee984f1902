"""The command line: `nbutils run`, `nbutils params`, `nbutils report`, …; one thin function for each command."""

import argparse
import functools
import itertools
import logging
import signal
import sys
from pathlib import Path
from textwrap import shorten
from typing import NoReturn

from nbutils.core import UserError
from nbutils.corpus.files import find_files
from nbutils.pipeline.parameters import all_parameters, check_name, notebooks_folder, read_profile

_say = functools.partial(print, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 a step failed, 2 wrong input, 130 stopped."""
    parser = argparse.ArgumentParser(prog="nbutils", description="Fine-tune an embedding model on your own documents.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function, text: str, *, name: str | None = "tutorial", name_help: str = "", parameters: bool = False):
        added = commands.add_parser(function.__name__, help=text)
        added.set_defaults(function=function)
        if name_help:
            added.add_argument("--name", default=name, help=name_help + (f" (default: {name})" if name else ""))
        if parameters:
            added.add_argument("--profile", help="a name in notebooks/profiles, or a YAML file")
            added.add_argument("-p", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"),
                               dest="parameters", help="set a parameter; repeat it for a list, such as TRAIN_FILES")  # fmt: skip
        return added

    added = command(run, "run notebooks 01 to 04 on any files", name_help="the run's name: its folder in outputs/",
                    parameters=True)  # fmt: skip
    added.add_argument("--fresh", action="store_true", help="do steps again that are up to date")

    command(estimate, "calls, tokens, time and money that a run's questions would take",
            name_help="the run whose answers so far count", parameters=True)  # fmt: skip

    added = command(batch, "run a plan: a CSV or YAML file, or a folder of documents", name=None, parameters=True,
                    name_help="the batch's name (default: the plan's); runs of a folder get it as prefix")  # fmt: skip
    added.add_argument("plan", metavar="PLAN", help="CSV or YAML, one row per run; or a folder, one document per run")
    added.add_argument("--jobs", type=int, default=1, help="runs at a time; the cores are shared out (default: 1)")
    added.add_argument("--hold-out", action="append", default=[], metavar="FILE",
                       help="for a folder: validate on this document (default: on pages of each one's own)")  # fmt: skip
    added.add_argument("--timeout", type=float, metavar="SECONDS", help="end a run that takes longer")
    added.add_argument("--memory", type=float, metavar="GIB",
                       help="end a run that holds more memory (default: the jobs share 90 %% of the machine's)")  # fmt: skip
    added.add_argument("--dask", metavar="ADDRESS", help="do the runs on the workers of this Dask scheduler")

    added = command(leaderboard, "compare runs: notebook 05, as notebook, HTML and CSV", name="leaderboard",
                    name_help="folder in outputs/ to write to")  # fmt: skip
    added.add_argument("runs", nargs="*", metavar="RUN", help="runs to compare (default: all in outputs/)")
    added.add_argument("--batch", default="", help="compare the runs of this batch")

    command(params, "print every parameter of every notebook, and what profiles change")
    command(report, "write a run's report.html again", name_help="the run")

    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):  # the second is what schedulers send
        signal.signal(number, _stop)
    try:
        return options.function(options) or 0
    except UserError as error:
        print(f"nbutils: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nnbutils: stopped; the same command continues where it stopped.", file=sys.stderr)
        return 130


def _stop(number: int, frame: object) -> NoReturn:
    logging.disable()  # nbclient and asyncio would report the death of the kernel that is now ended
    raise KeyboardInterrupt


def run(options: argparse.Namespace) -> int:
    """Run the chain and print its closing table."""
    from nbutils.pipeline import run as runs

    result = runs.run(options.name, collect(options.parameters), profile=options.profile, fresh=options.fresh, say=_say)
    if result.status == "failed":
        ran = f"nbutils: the notebook as far as it ran: {result.folder / result.failed_step}.ipynb"
        print(f"nbutils: {result.failed_step}: {result.error}\n{ran}", file=sys.stderr)
        return 1
    print("\n" + result.metrics.to_string(index=False, float_format="{:.3f}".format))
    print(f"\nReport: {result.report}")
    return 0


def batch(options: argparse.Namespace) -> int:
    """Run a plan and say what failed."""
    from nbutils.pipeline.batch import run_batch
    from nbutils.pipeline.plan import default_name, read_plan

    name, passed_over = check_name(options.name or default_name(options.plan)), []
    plan = read_plan(
        options.plan, hold_out=options.hold_out, parameters=collect(options.parameters), profile=options.profile,
        prefix=f"{options.name}." if options.name else "",
    )  # fmt: skip
    if Path(options.plan).is_dir():
        find_files(options.plan, passed_over=passed_over)
    if passed_over:
        print(f"nbutils: passed over: {shorten(', '.join(passed_over), 300)}", file=sys.stderr)
    limits = {each: getattr(options, each) for each in ("jobs", "timeout", "memory", "dask")}
    done = run_batch(plan, name, **limits, say=_say)
    print(f"\n{len(done.names('done'))} of {len(done.outcomes)} runs are done. Record: {done.path}")
    for failed in done.names("failed"):
        outcome = done.outcomes[failed]
        print(f"nbutils: {failed}: {outcome.error} ({outcome.notebook or 'no notebook ran'})", file=sys.stderr)
    print(f"Compare them: nbutils leaderboard --batch {name}")
    return 0 if len(done.names("done")) == len(done.outcomes) else 1


def leaderboard(options: argparse.Namespace) -> int:
    """Execute notebook 05 over runs that are done."""
    from nbutils.pipeline.leaderboard import write_leaderboard

    result = write_leaderboard(options.runs, batch=options.batch, name=options.name, say=_say)
    print("\n" + result.to_text())
    return 0


def estimate(options: argparse.Namespace) -> None:
    """Print what the questions of a run would cost, without asking anything."""
    from nbutils.pipeline.estimate import estimate

    table = estimate(options.name, collect(options.parameters), profile=options.profile)
    print(table.to_string(float_format=lambda value: f"{value:,.2f}"))
    print("Tokens are estimates. cost is in the currency of PRICE_INPUT and PRICE_OUTPUT, for a million tokens each.")


def params(options: argparse.Namespace) -> None:
    """Print each parameter under the first notebook that has it: type, default, meaning, and what profiles change."""
    profiles = {path.stem: read_profile(path) for path in sorted((notebooks_folder() / "profiles").glob("*.yaml"))}
    first = {parameter.name: parameter for parameter in reversed(all_parameters())}
    for notebook, parameters in itertools.groupby(all_parameters(), lambda parameter: parameter.notebook):
        print(f"\n{notebook}")
        for parameter in (each for each in parameters if first[each.name] is each):
            print(f"  {parameter.name} ({parameter.type}) = {parameter.default!r}\n      {parameter.help}")
            for profile, values in profiles.items():
                value = parameter.convert(values.get(parameter.name, parameter.default))
                if value != parameter.default:
                    print(f"      --profile {profile}: {value!r}")


def report(options: argparse.Namespace) -> None:
    """Write report.html of a run that is done."""
    from nbutils.pipeline.report import write_report
    from nbutils.pipeline.run import Run
    from nbutils.pipeline.steps import CHAIN, trouble

    this = Run(options.name)
    this.need(*CHAIN[-1].makes)
    if found := trouble(CHAIN, this.read()):
        raise UserError(f"{': '.join(found).rstrip('.')}. `nbutils run --name {this.name}` does what is missing.")
    print(write_report(this.folder))


def collect(pairs: list[list[str]]) -> dict[str, str | list[str]]:
    """Return `-p` pairs as a dict; a name given several times becomes a list."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: found if len(found) > 1 else found[0] for name, found in values.items()}


if __name__ == "__main__":
    sys.exit(main())
