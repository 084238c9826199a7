"""How far what a runtime answered is from what was expected, and whether that is within its bound."""

from typing import Any

PERPLEXITY_WITHIN = 1e-3
"""Share by which a runtime that is held to a bound may differ in perplexity."""


def judged(answered: dict[str, Any], expected: dict[str, Any], within: float | None) -> dict[str, Any]:
    """Figures of a row: greedy continuations that are identical, of how many; largest difference of log-probabilities,
    nats; perplexity as the runtime has it, and its share of difference; what else the runtime said; `passed`, which is
    None where no bound is set. None for what the runtime didn't answer."""
    greedy, found = answered["greedy"], answered["logprobs"]
    row = {
        "identical": None if greedy is None else sum(map(list.__eq__, greedy, expected["greedy"])),
        "prompts": len(expected["greedy"]),
        "difference": None if found is None else _largest_difference(found, expected["logprobs"]),
        "perplexity": (perplexity := answered["perplexity"]),
        "perplexity_difference": None if perplexity is None else perplexity / expected["perplexity"] - 1,
    }
    said = {name: value for name, value in answered.items() if name not in ("greedy", "logprobs")}
    return said | row | {"passed": None if within is None else _passes(row, within)}


def _largest_difference(found: list[list[float]], expected: list[list[float]]) -> float:
    """ValueError where there are other numbers of them."""
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    return max(abs(one - other) for one, other in pairs)


def _passes(row: dict[str, Any], within: float) -> bool:
    """What was not answered doesn't count; one that answered nothing has not passed. No number is within no bound."""
    held = [
        row["identical"] is None or row["identical"] == row["prompts"],
        row["difference"] is None or row["difference"] <= within,
        row["perplexity_difference"] is None or abs(row["perplexity_difference"]) <= PERPLEXITY_WITHIN,
    ]
    answered = any(row[name] is not None for name in ("identical", "difference", "perplexity_difference"))
    return answered and all(held)
