"""The dense model's perplexity, computed once for all runs of a model on the same text."""

from typing import Any

from artifacts import keys
from artifacts.claims import read
from artifacts.digest import canonical_json, identity, parse_record, record_bytes, sha256_bytes
from ghost.evaluation.perplexity import PROTOCOL, Perplexity
from tasks.run.open import Run, numerics


def find_dense(run: Run) -> Perplexity | None:
    """The dense model's score, if the store has it, whole, of this model, text, window, device and precision.

    Raises StoreError where the store can't say.
    """
    found = parse_record(read(run.store, _key(run))) or {}
    score = found.get("score")
    if not isinstance(score, dict) or "window_nats" not in score or found != _record(run, score):
        return None
    return Perplexity.from_dict(score)


def keep_dense(run: Run, score: Perplexity) -> None:
    """Store the dense model's score for the runs that follow."""
    run.store.put(_key(run), record_bytes(_record(run, score.as_dict())))


def _key(run: Run) -> str:
    return keys.dense_score(identity(_depends_on(run)))


def _depends_on(run: Run) -> dict[str, Any]:
    text = {"evaluation": run.determinants["evaluation"], "window": run.settings.window, "protocol": PROTOCOL}
    # Sums depend on how threads share them out, in their last digits.
    return {"checkpoint": run.source.digest, "threads": run.computing.threads} | text | numerics(run)


def _record(run: Run, score: dict[str, Any]) -> dict[str, Any]:
    """With its own digest: a flipped digit of the score is still JSON."""
    content = {"depends_on": _depends_on(run), "score": score}
    return content | {"sha256": sha256_bytes(canonical_json(content))}
