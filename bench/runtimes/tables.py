"""The figures of `bench.runtimes` as tables."""

from typing import Any

from rich.table import Table

VERDICTS = {True: "yes", False: "NO", None: "-"}


def table(rows: dict[str, list[dict[str, Any]]]) -> Table:
    """A row a checkpoint and runtime."""
    made = Table("runtime", "checkpoint", title="Against stock transformers, fp32", title_justify="left")
    for column in ("state KiB", "greedy", "log-prob.", "perplexity", "held"):
        made.add_column(column, justify="right")
    for name, found in rows.items():
        for row in found:
            made.add_row(row.get("version", name), *_cells(row), VERDICTS[row["passed"]])
    return made


def remarks(rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What a row has to say beside its figures, and what failed."""
    said = [(name, row, row.get("error") or row.get("note")) for name, found in rows.items() for row in found]
    return [f"{name}, {row['model']}: {remark}" for name, row, remark in said if remark]


def _cells(row: dict[str, Any]) -> list[str]:
    """Checkpoint to perplexity."""
    state = row.get("state_bytes")
    cells = [row["model"], "-" if state is None else f"{state / 1024:,.0f}"]
    identical, difference, perplexity = (row.get(name) for name in ("identical", "difference", "perplexity"))
    cells.append("-" if identical is None else f"{identical} of {row['prompts']}")
    cells.append("-" if difference is None else f"{difference:.1e}")
    cells.append("-" if perplexity is None else f"{perplexity:.4f} ({row['perplexity_difference']:+.1e})")
    return cells


def speed_table(speeds: dict[str, dict[str, Any]], sequences: int) -> Table:
    """Tokens a second of one thread, by runtime and state."""
    title = f"Tokens a second, mamba2-130m's shape, one thread: prompt, and decoded by {sequences} sequences together"
    made = Table("runtime", "state", title=title, title_justify="left")
    made.add_column("prompt", justify="right")
    made.add_column("decode", justify="right")
    for name, found in speeds.items():
        if "error" in found:
            made.add_row(name, "-", "-", found["error"])
            continue
        for n, row in found.items():
            made.add_row(
                name, n, *("-" if row[what] is None else f"{row[what]:,.1f}" for what in ("prefill", "decode"))
            )
    return made
