"""``gradledger compare``: small batch, accumulated and large batch side by side."""

from pathlib import Path
from typing import Annotated

import typer

from gradledger.cli._console import make_console, write
from gradledger.cli.train import EXIT_STATUS, INTERRUPTED_STATUS, working_directory_importable

DEFAULT_OVERRIDES = ("epochs=10",)
"""Of the comparison without a configuration file: enough for the digits, and every arm in under a minute."""

_WIDTH_WITHOUT_TERMINAL = 110


def compare(
    config: Annotated[
        Path | None, typer.Argument(help="A YAML file, as for train. Left out: the built-in digits.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Goes over the file, such as epochs=20.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Arms, separated by commas; or default, broken, all.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Seeds that every arm is trained from.", min=1)] = 5,
    data: Annotated[str | None, typer.Option(help="The same as --set data=NAME.")] = None,
    positive_fraction: Annotated[
        float | None, typer.Option(help="With --data breast-cancer: make the positives this rare, such as 0.02.")
    ] = None,
) -> None:
    """Train arms from the same seeds, on the same samples in the same order, and show how they differ."""
    given = [*(() if config else DEFAULT_OVERRIDES), *([f"data={data}"] if data else [])]
    if positive_fraction is not None:
        given.append(f"data.positive_fraction={positive_fraction}")
    try:
        with working_directory_importable():
            status = _compare(config, [*given, *(overrides or [])], arms, seeds)
    except KeyboardInterrupt:
        status = INTERRUPTED_STATUS
    raise typer.Exit(status)


def _compare(path: Path | None, overrides: list[str], arm_names: str | None, num_seeds: int) -> int:
    from gradledger.train.config import load_config

    checked = load_config(path, overrides)
    from gradledger.report import write_report
    from gradledger.train.arms import choose_arms
    from gradledger.train.comparison import Comparison, compare, write_comparison
    from gradledger.train.comparison_view import print_comparison
    from gradledger.train.records import STOPPED
    from gradledger.train.run_directory import make_directory
    from gradledger.train.setup import complete, load_data
    from gradledger.train.statements import statements_of

    loaded = load_data(checked)
    config = complete(checked, loaded)
    seeds = tuple(range(config.seed, config.seed + num_seeds))
    comparison = Comparison(config, loaded, choose_arms(arm_names, config), seeds)
    directory = make_directory(config.output, config.name, stem=f"compare-{config.stem}")
    console = make_console(width_without_terminal=_WIDTH_WITHOUT_TERMINAL)
    num_runs = len(comparison.arms) * num_seeds
    for number, run in enumerate(compare(comparison, directory), start=1):
        accuracy = run.number("accuracy")
        result = f"accuracy {accuracy:.2%}" if accuracy == accuracy else f"validation loss {run.number('loss'):.4f}"
        console.print(
            f"{number}/{num_runs}  seed {run.seed}  {run.arm:<16} {run.num_updates:>5} updates  {run.seconds:5.2f} s  "
            f"{run.exit}, {result}",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    statements = statements_of(comparison)
    write_comparison(comparison, statements, directory)
    print_comparison(console, comparison, statements, str(directory))
    write(f"Report             {write_report([directory], directory / 'report.html')}\n")
    last = comparison.runs[-1].exit if comparison.runs else "finished"
    return EXIT_STATUS[last] if last in STOPPED else 0
