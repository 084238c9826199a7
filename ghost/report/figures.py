"""Numbers and settings in words, the same on the summary page and in the model card."""

from collections.abc import Mapping
from typing import Any

METHODS = {
    "ghost": "the empirical Hankel singular value of each state channel, measured on the calibration text",
    "ghost-mean": "the mean energy of each state channel times the mean energy of its output side, measured on the "
    "calibration text",
    "magnitude": "the norms of each state channel's weights, without any data",
    "random": "a seeded random number for each state channel, as a baseline",
}


def perplexity(value: float) -> str:
    """Two decimals, or three digits and an exponent where a model fell apart."""
    return f"{value:,.2f}" if value < 1e5 else f"{value:.2e}"


def megabytes(size: int) -> str:
    """Bytes as megabytes of 10^6, without the unit."""
    value = size / 1e6
    return f"{value:,.2f}" if value >= 1 else f"{value:.3g}"


def millions(count: int) -> str:
    """A count with the unit that leaves one to three digits before the point."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def percent(share: float) -> str:
    """A share as a percentage of up to four digits, without trailing zeros."""
    return f"{share * 100:.4g}%"


def pruned_share(summary: Mapping[str, Any]) -> str:
    """Share of the channels that went. Rounding makes it differ from the sparsity that was asked for."""
    return percent(1 - summary["kept_channels"] / summary["channels"])


def change(pair: Mapping[str, float]) -> str:
    """Relative change from dense to pruned, signed."""
    if pair["dense"] == pair["pruned"]:
        return "unchanged"
    return f"{(pair['pruned'] / pair['dense'] - 1) * 100:+,.2f}%".replace("-", "−")


def plural(count: int, noun: str) -> str:
    """`1 layer`, `24 layers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def setting_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything that determined the run, in the order to show it."""
    calibration, evaluation = summary["calibration"], summary["evaluation"]
    return [
        ("Model", summary["model"]),
        ("Method", summary["method"]),
        ("Sparsity", percent(summary["sparsity"])),
        ("Policy", summary["policy"]),
        ("Pruning", "soft: dropped channels are zeroed" if summary["soft"] else "hard: dropped channels are cut out"),
        ("Order", "sequential" if summary["sequential"] else "one-shot: every layer scored on the dense model"),
        ("Calibration text", calibration["corpus"]),
        (
            "Calibration windows",
            f"{calibration['samples']:,} × {plural(calibration['length'], 'token')}, seed {calibration['seed']}",
        ),
        ("Evaluation text", evaluation["corpus"]),
        ("Evaluation windows", f"{evaluation['window']:,} tokens each, {evaluation['tokens']:,} tokens scored"),
        ("Evaluation protocol", evaluation["protocol"]),
        ("Run", summary["run_id"]),
    ]
