"""The command line. A user's mistake ends as one line on stderr and exit code 2, never as a traceback."""

import errno
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from artifacts.errors import ArtifactError
from artifacts.redaction import redact
from flows import (
    compare_command,
    doctor_command,
    evaluate_command,
    fits_command,
    gguf_command,
    operations,
    sweep_command,
)
from flows.arguments import AsJson, EndpointUrl, StoreUrl, expand_home
from flows.environment import prepare_environment
from flows.options import command_options
from flows.prefect_server import with_prefect_server
from flows.stop import stoppable
from ghost.errors import GhostError, SettingsError
from ghost.out_of_memory import out_of_memory_in_one_line
from ghost.pruning import both
from ghost.settings import RunSettings
from ghost_ssm import HiddenPackageError, require_packages

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_HOME = "Could not determine home directory"
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


@app.callback()
def root() -> None:
    """Shrink the recurrent state of Mamba2 language models: score every state channel by what it does on a calibration
    text, keep the best, and write an ordinary, smaller checkpoint.

    Try `ghost run demo`, then
    `ghost run YOUR_MODEL_FOLDER --sparsity 0.5 --calibration text.txt --evaluation held-out.txt`.
    """
    prepare_environment()


@app.command()
@command_options(RunSettings, argument="model")
def run(
    fields: dict[str, Any], context: typer.Context, endpoint_url: EndpointUrl = None, as_json: AsJson = False
) -> None:
    """Prune a checkpoint, evaluate it, and report. Started again, a run continues where it stopped.

    Artifacts go to the store: statistics and selections as Parquet, the checkpoint, the evaluation, and a page.
    """
    from flows.console import Bars
    from flows.summary import print_summary
    from tasks.run.child import end_with_torchrun
    from tasks.run.follower import follow, follows
    from tasks.run.open import open_run
    from tasks.run.serving import runtime_warnings

    if follows():
        end_with_torchrun()
        raise SystemExit(follow())
    if fields["keep"] is not None and _typed(context, "sparsity"):  # even where it is the default
        raise SettingsError(both(fields["keep"], "sparsity", fields["sparsity"]))
    settings = RunSettings.make(**fields)
    with Bars() as bars:
        opened = open_run(settings, bars, joins=True)  # whatever is wrong shows before a Prefect server has to start
        for line in runtime_warnings(opened):
            bars.warn(line)
        result = with_prefect_server(lambda: _pruned(opened, fields))
    print_summary(result, as_json=as_json)


def _typed(context: typer.Context, option: str) -> bool:
    """Whether the user gave this option."""
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _pruned(opened: Any, fields: dict[str, Any]) -> dict[str, Any]:
    from flows.prune import ghost_flow

    return ghost_flow(lambda settings: opened)(**fields)


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run id, or the first characters of it.")],
    store: StoreUrl = "ghost-runs",
    endpoint_url: EndpointUrl = None,
) -> None:
    """Show a run's layers: what was kept, and how much energy was dropped."""
    from flows.summary import print_layers
    from tasks.store.show import layer_rows

    print_layers(*layer_rows(store, run_id))


@app.command()
def verify(
    checkpoint: Annotated[str, typer.Argument(help="Folder or s3://bucket/prefix of the pruned checkpoint.")],
    against: Annotated[
        str, typer.Option(help="The model it was made from: demo, a folder, s3://bucket/prefix or a hub name.")
    ],
    text: Annotated[str, typer.Option(help="Corpus to take the tokens from.")] = "stdlib",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to compare on.")] = 512,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Load the pruned checkpoint in stock transformers and prove that its logits are those of the original with the
    dropped channels zeroed after the convolution; after recovery, those of ghost's own path on the stored weights."""
    from tasks.evaluate import verify_checkpoint

    result = verify_checkpoint(checkpoint, against, text, tokens)
    if as_json:
        print(json.dumps(result))
    else:
        print(
            f"verified: logits of {result['tokens']} tokens agree within {result['difference']:.1e} of their scale "
            f"(limit {result['limit']:.0e}) with {result['against']}"
        )


@app.command()
def convert(
    checkpoint: Annotated[str, typer.Argument(help="demo, a folder, s3://bucket/prefix or a hub name.")],
    out: Annotated[Path, typer.Argument(callback=expand_home, help="New folder for what comes out.")],
    to: Annotated[
        Literal["native", "hf"],
        typer.Option("--format", help="native: state-spaces, which mamba_ssm loads; hf: transformers'."),
    ],
    endpoint_url: EndpointUrl = None,
) -> None:
    """Write a Mamba2 checkpoint in the native state-spaces format, or such a one in transformers': the same tensors."""
    from tasks.convert import convert_folder

    convert_folder(checkpoint, out, to)
    print(out)


app.command("eval")(evaluate_command.evaluate)
app.command()(compare_command.compare)
app.command()(sweep_command.sweep)
app.command()(fits_command.fits)
app.command()(gguf_command.gguf)
app.command()(doctor_command.doctor)
app.command()(operations.gc)


@app.command()
def bench(
    what: Annotated[
        str,
        typer.Argument(help="energies, walk, operators, windows, processes, memory, recovery-cost, cuda, ... or all."),
    ] = "all",
    out: Annotated[
        Path | None, typer.Option(callback=expand_home, help="Also write the figures to this JSON file.")
    ] = None,
    family: Annotated[str, typer.Option(help="Whose memory is measured: mamba2 or nemotron_h.")] = "mamba2",
) -> None:
    """Time and memory of ghost's own parts, as ratios measured in one run."""
    require_packages("bench")
    from bench.main import run_benchmarks

    run_benchmarks(what, out, family=family)


def main() -> None:
    """Entry point: run a command, and turn a user's mistake into one line and exit code 2."""
    for name in ("transformers", "EventsWorker"):  # the latter is Prefect's, and warns after the last line
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "Failed to create the Prefect home")  # told with the remedy, where it matters
    sys.exit(_guarded(stoppable()(app)))


def _guarded(command: Callable[[], Any]) -> int:
    try:
        with out_of_memory_in_one_line():
            command()
    except (GhostError, ArtifactError, HiddenPackageError) as error:
        return _complain(str(error))
    except Exception as error:
        if getattr(error, "errno", None) in FULL:
            return _complain(f"no space left on the disk ({error}); free some space, or set TMPDIR to a larger disk")
        if getattr(error, "errno", None) in UNUSABLE:
            return _complain(f"a path cannot be used ({error}); make it accessible, or give another one")
        if isinstance(error, RuntimeError) and NO_HOME in str(error):
            return _complain("the home folder that a path means by ~ is not known; give the path in full, or set HOME")
        print(redact(traceback.format_exc()), file=sys.stderr)
        return 1
    return 0


def _complain(message: str) -> int:
    """One line: what is read may have put line breaks and terminal codes into names, and passwords into addresses."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(redact(message).split()))
    print(f"ghost: error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
