"""`ghost sweep`: every combination of models, methods and sparsities as a run of its own, and one table of them all."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import TaskID
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, numbers, split
from flows.console import Drawn
from flows.options import command_options
from flows.prefect_server import with_prefect_server
from flows.summary import print_note
from ghost.report.figures import NO_DIFFERENCE, in_form, with_noise
from ghost.significance import is_noise
from tasks.sweep.settings import DEFAULTS, RunOptions, make_sweep
from tasks.wording import layers_in_words

VARIED = "What is varied: a,b,c or the option several times"
USUAL = {axis: [",".join(map(str, values))] for axis, values in DEFAULTS.items()}


def _list(help: str) -> Any:
    return typer.Option(help=help, metavar="LIST", rich_help_panel=VARIED)


@command_options(RunOptions, argument="")
def sweep(
    fields: dict[str, Any],
    models: Annotated[list[str], typer.Argument(help="Models, each as for `ghost run`.")] = USUAL["models"],
    methods: Annotated[list[str], _list("Saliencies.")] = USUAL["methods"],
    sparsity: Annotated[list[str], _list("Shares of the state channels to drop.")] = USUAL["sparsity"],
    keep: Annotated[
        list[str] | None, _list("In place of sparsity: state channels to keep, such as 96,64,32,16.")
    ] = None,
    calibration_lengths: Annotated[list[str], _list("Tokens of a calibration window.")] = USUAL["calibration_lengths"],
    windows: Annotated[list[str], _list("Tokens of an evaluation window.")] = USUAL["windows"],
    seeds: Annotated[list[str], _list("Seeds of the calibration sample and of `random`.")] = USUAL["seeds"],
    recovery: Annotated[list[str], _list("Corrections: none, lstsq, fit, local.")] = USUAL["recovery"],
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Prune and evaluate every combination, and show the figures side by side: a table here, a page with the plots in
    the store. Started again, a sweep continues where it stopped. Exit code 1 where a cell failed.

    Try `ghost sweep demo --methods ghost,magnitude --sparsity 0.5,0.75 --samples 32`.
    """
    axes = {
        "models": models, "methods": split(methods), "sparsity": numbers("sparsity", sparsity, float, "0.25,0.5"),
        "keep": numbers("keep", keep or [], int, "64,32"),
        "calibration_lengths": numbers("calibration-lengths", calibration_lengths, int, "128,512"),
        "windows": numbers("windows", windows, int, "128,512"), "seeds": numbers("seeds", seeds, int, "0,1,2"),
        "recovery": split(recovery),
    }  # fmt: skip
    options = RunOptions.make(**fields)
    asked = make_sweep(axes, options)  # what no run takes is refused here, before a Prefect server has to start
    with SweepBars(len(asked.cells)) as bars:
        result = with_prefect_server(lambda: _swept(axes, options, bars))
    print(json.dumps(result, ensure_ascii=False)) if as_json else print_sweep(result)
    if result["failed"]:
        raise typer.Exit(1)


def _swept(axes: dict[str, Any], options: RunOptions, bars: "SweepBars") -> dict[str, Any]:
    from flows.sweep import sweep_flow

    state = sweep_flow(bars)(**axes, options=options, return_state=True)
    result = state.result(raise_on_failure=False)
    if isinstance(result, BaseException):
        raise result
    return result


class SweepBars(Drawn):
    """Told of cells and of what their runs do: a bar for all cells, and two for the one at work."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self._cells = self._progress.add_task("cells", total=cells)
        self._name, self._parts = "", list[TaskID]()

    def cell(self, name: str) -> None:
        self._progress.update(self._cells, description=f"cell {name}")

    def cell_done(self) -> None:
        self._progress.update(self._cells, advance=1)
        self._forget()

    def start(self, layers: int, mixers: int) -> None:
        self._forget()
        self._parts = [self._progress.add_task(f"  {layers_in_words(layers, mixers)}", total=mixers)]

    def layer(self, message: str) -> None:
        self._progress.update(self._parts[0], advance=1, description=f"  {message}")

    def evaluation(self, tokens: int) -> None:
        self._parts.append(self._progress.add_task("  evaluating, tokens", total=tokens))

    def evaluated(self, tokens: int) -> None:
        self._progress.update(self._parts[1], advance=tokens)

    def _forget(self) -> None:
        for part in self._parts:
            self._progress.remove_task(part)
        self._parts = []


def print_sweep(result: dict[str, Any]) -> None:
    """Methods by sparsity, a table for each model and each other setting; what failed; where the page lies."""
    console = Console()
    for title, rows in _tables(result["cells"]).items():
        console.print(Text(title), _table(rows), sep="\n", soft_wrap=True, highlight=False)
        print_note(console, map(_rise, rows))
        for line in _ties(rows):
            console.print(Text(line), soft_wrap=True, highlight=False)
    for name, why in result["failed"].items():
        console.print(Text(f"failed: {name}: {why}"), soft_wrap=True, highlight=False)
    console.print(f"page: {result['page']}", soft_wrap=True, highlight=False)


def _tables(cells: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they share, in words."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in cells:
        if row["error"] is None:
            title = (
                f"{row['model']}: dense {in_form(row['perplexity_dense'], '{:.3f}')}; window {row['window']}, "
                f"calibration length {row['calibration_length']}, seed {row['seed']}, recovery {row['recovery']}"
            )
            tables.setdefault(title, []).append(row)
    return tables


def _table(rows: list[dict[str, Any]]) -> Table:
    """Perplexity and rise; a method that leaves the state as large as it was is marked."""
    shares = sorted({row["sparsity"] for row in rows})
    table = Table("method")
    for share in shares:
        table.add_column(f"{share:g}", justify="right")
    for method in dict.fromkeys(row["method"] for row in rows):
        of = {row["sparsity"]: row for row in rows if row["method"] == method}
        whole = any(row["state_bytes"] == row["state_bytes_dense"] for row in of.values())
        table.add_row(f"{method} (state as large)" if whole else method, *(_figure(of.get(share)) for share in shares))
    return table


def _ties(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Where the best of a sparsity may as well be another method."""
    for share in sorted({row["sparsity"] for row in rows}):
        of = [row for row in rows if row["sparsity"] == share]
        names = [row["method"] for row in of if is_noise(row["over_best"], row["over_best_stderr"])]
        if names:
            yield f"at {share:g}: {NO_DIFFERENCE} between the best of all cells and {', '.join(names)}"


def _rise(row: dict[str, Any]) -> str:
    return with_noise(row["rise"], row["rise_stderr"], "{:+.1%}")


def _figure(row: dict[str, Any] | None) -> str:
    if row is None or row["rise"] is None:
        return "-" if row is None else in_form(row["perplexity"], "{:.3f}")
    return f"{row['perplexity']:.3f} ({_rise(row)})"
