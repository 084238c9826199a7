"""`ghost eval`: what a checkpoint is worth, alone or beside the model that it was made from."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from flows.arguments import AsJson, EndpointUrl, expand_home
from flows.summary import print_note, print_warnings
from ghost.evaluation.rows import CHANGE, RELATIVE, RISE
from ghost.report.figures import NOT_FINITE, with_noise


def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="demo, a folder, s3://bucket/prefix or a hub name.")],
    against: Annotated[str | None, typer.Option(help="The dense model to show beside it, in the same forms.")] = None,
    text: Annotated[str, typer.Option(help="Evaluation text, in the forms of `ghost run --evaluation`.")] = "stdlib",
    contexts: Annotated[str, typer.Option(help="Lengths of context, in tokens.")] = "16,64,256,1024,2048",
    segments: Annotated[int, typer.Option(min=2, help="Places of the text where 16 tokens are predicted.")] = 128,
    pairs: Annotated[str, typer.Option(help="Key-value pairs of the recall probe.")] = "4,16,64",
    distances: Annotated[str, typer.Option(help="Tokens of text between pairs and question.")] = "0,256",
    samples: Annotated[int, typer.Option(min=2, help="Prompts of each recall case.")] = 64,
    batch_sizes: Annotated[str, typer.Option(help="Sequences decoded at once.")] = "1,8",
    state_dtype: Annotated[
        str,
        typer.Option(
            help="Precisions to keep the recurrent state in, of float32, bfloat16, float16, float8_e4m3fn and int8, "
            "written after every chunk as in prefill and after every token as in decoding. int8 and fp8 have a scale "
            "for each head and channel of headdim, as in FlashInfer. Takes minutes for each, even of a small model."
        ),
    ] = "",
    tasks: Annotated[
        str,
        typer.Option(
            help="lm-eval tasks: NAME,NAME or `default`; local_wikitext:FILE and local_lambada:FILE need no network."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Documents of each task, for a quick look.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let tasks such as humaneval run the code that a model writes.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the recall prompts and of lm-eval.")] = 0,
    tokenizer: Annotated[str | None, typer.Option(help="For a model folder that has none.")] = None,
    device: Annotated[str, typer.Option(help="As for `ghost run`.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens computed at once, as for `ghost run`.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(callback=expand_home, help="Folder for results.json and results.parquet.")
    ] = None,
    endpoint_url: EndpointUrl = None,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint: perplexity by length of context, recall of key-value pairs, decoding speed, lm-eval tasks.

    An empty list (`--pairs ''`) leaves its part out.
    """
    from ghost.evaluation.plan import Plan
    from tasks.evaluate import measure, open_assessment, run_benchmarks, write_results

    plan = Plan(
        contexts=contexts, segments=segments, pairs=pairs, distances=distances, samples=samples,
        batch_sizes=batch_sizes, state_dtype=state_dtype, tasks=tasks, limit=limit, allow_code=allow_code, seed=seed,
    )  # fmt: skip
    opened = open_assessment(
        plan, checkpoint, against, text=text, tokenizer=tokenizer, device=device, dtype=dtype, batch_tokens=batch_tokens
    )
    with _Bars() as bars:
        results = measure(opened, bars.advance_part)
    found, about = run_benchmarks(opened)  # lm-eval draws bars of its own
    results["rows"] += found
    results["protocol"] |= about
    if out:
        write_results(results, out)
    if as_json:
        print_warnings(results, Console(stderr=True))
        print(json.dumps(results, ensure_ascii=False, allow_nan=False))
    else:
        _print(results)


class _Bars(Progress):
    """One bar a part, on stderr."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=Console(stderr=True))
        self._parts: dict[str, TaskID] = {}

    def advance_part(self, part: str, done: int, total: int) -> None:
        if part not in self._parts:
            self._parts[part] = self.add_task(part, total=total)
        self.update(self._parts[part], advance=done)


def _print(results: dict[str, Any]) -> None:
    models = [*results["models"], *([CHANGE] if len(results["models"]) > 1 else [])]
    table = Table(title=_title(results["models"]), title_justify="left")
    for heading in ("part", "case", "metric"):
        table.add_column(heading, overflow="fold")
    for model in models:
        table.add_column(model, justify="right", no_wrap=True)
    cases: dict[tuple[str, ...], dict[str, str]] = {}
    for row in results["rows"]:
        cases.setdefault((row["part"], row["case"], row["metric"]), {})[row["model"]] = _figure(row)
    last = ""
    for case, figures in cases.items():
        if last and case[0] != last:
            table.add_section()
        last = case[0]
        table.add_row(*map(Text, case), *(figures[model] for model in models))
    Console().print(table)
    print_note(Console(), map(_figure, results["rows"]))
    print_warnings(results, Console())
    protocol = results["protocol"]
    for part in ("context", "recall", "state", "decode", "tasks"):
        if part.removesuffix("s") in {row["part"] for row in results["rows"]}:
            Console().print(Text(f"{part}: {protocol[part]}"), highlight=False)
    Console().print(
        Text(f"text: {protocol['text']}, {protocol['text_tokens']:,} tokens of the checkpoint's own tokenizer; "
             f"{protocol['predicted_tokens']:,} predicted; {protocol['dtype']} on {protocol['device']}"),
        highlight=False,
    )  # fmt: skip


def _title(models: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {about['name']} (d_state {about['d_state']})" for key, about in models.items())


def _figure(row: dict[str, Any]) -> str:
    """Value ± standard error: `17.31 ± 0.42`, `+2.1% ± 0.1%`."""
    value, error, changed = row["value"], row["stderr"], row["model"] == CHANGE
    if value is None:
        return NOT_FINITE
    if changed and row["metric"] in RELATIVE:
        return with_noise(value, error, "{:+.1%}")
    if row["metric"] == RISE:
        return with_noise(value, error, "{:+.3%}")
    form = "{:,.0f}" if row["metric"].endswith("_bytes") else "{:,.1f}" if abs(value) >= 1000 else "{:.3f}"
    if changed:
        return with_noise(value, error, form.replace(":", ":+"))
    return form.format(value) + ("" if error is None else f" ± {form.format(error)}")
