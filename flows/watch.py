"""The flow `ghost-watch`: one look at a source, and one run of the pipeline for every checkpoint that is new there."""

import re
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from artifacts.publish import published
from flows.failures import failing_in_one_line
from tasks.watch.attempts import attempt_key, decide, past_attempts, trigger
from tasks.watch.discover import Found, discover
from tasks.watch.recipe import Recipe, keep_recipe, read_recipe

FINGERPRINT_DIGITS = 8
ACTIONS = ("triggered", "skipped", "given up")


@dataclass(frozen=True)
class Outcome:
    """What became of one checkpoint in this look."""

    checkpoint: str
    action: str
    """One of ACTIONS."""
    why: str
    target: str = ""
    """Where its pruned checkpoint is, or would be, published."""
    run: str = ""
    """Name of the run that was made."""


@flow(name="ghost-watch", flow_run_name="look with {recipe}")
@failing_in_one_line
def ghost_watch(
    recipe: str, deployment: str = "ghost/prune-eval", settle: Annotated[float, Field(ge=0)] = 30.0
) -> dict[str, Any]:
    """Look for checkpoints of Mamba2 and its hybrids, and start one run for each that is complete and not yet
    compressed by the recipe.

    Args:
        recipe: YAML file with the recipe, as an absolute path on the worker or s3://bucket/path.
        deployment: Deployment that compresses one checkpoint.
        settle: Seconds between the two looks at the source; a checkpoint that changes meanwhile is left for later.
    """
    chosen = read_recipe(recipe)
    keep_recipe(chosen)
    own_tokenizer = "tokenizer" not in chosen.chosen
    found = discover(chosen.source, settle, avoid=chosen.publish, own_tokenizer=own_tokenizer, families=chosen.families)
    outcomes = _outcomes(found, chosen, deployment)
    _tell(outcomes, chosen)
    grouped = {action: [asdict(o) for o in outcomes if o.action == action] for action in ACTIONS}
    return {"recipe": chosen.label, "source": chosen.source, "found": len(outcomes)} | grouped


def _outcomes(found: list[Found], recipe: Recipe, deployment: str) -> list[Outcome]:
    first_of: dict[str, str] = {}
    outcomes = []
    for checkpoint in found:
        name = _name(checkpoint)
        if checkpoint.problem:
            outcomes.append(Outcome(name, "skipped", checkpoint.problem))
        elif (twin := first_of.setdefault(checkpoint.fingerprint, name)) != name:
            outcomes.append(Outcome(name, "skipped", f"has the same content as {twin}"))
        else:
            outcomes.append(_outcome(checkpoint, recipe, deployment))
    return outcomes


def _outcome(checkpoint: Found, recipe: Recipe, deployment: str) -> Outcome:
    name, target = _name(checkpoint), _target(checkpoint, recipe)
    # Runs before manifests: a run publishes first and completes then, so that one seen completed has published.
    decision = decide(past_attempts(checkpoint.fingerprint, recipe), recipe.max_attempts)
    if published(target):
        return Outcome(name, "skipped", "published already", target)
    if decision.action != "trigger":
        return Outcome(name, "skipped" if decision.action == "skip" else "given up", decision.why, target)
    key = attempt_key(checkpoint.fingerprint, recipe, decision.attempt)
    mine = f"look:{flow_run.id}"
    tags = ["ghost-watch", recipe.label, mine]
    run = trigger(deployment, recipe.parameters(checkpoint.model, target), key, tags)
    if mine not in run.tags:
        return Outcome(name, "skipped", f"waiting for its turn: another look has just made run {run.name}", target)
    return Outcome(name, "triggered", decision.why, target, run.name)


def _name(checkpoint: Found) -> str:
    """Its path below the source, or the source's own name where it lies at the top."""
    return checkpoint.path or PurePosixPath(checkpoint.model).name


def _target(checkpoint: Found, recipe: Recipe) -> str:
    """A folder of its own for every content, path and version of the recipe."""
    slug = re.sub(r"[^A-Za-z0-9._]+", "-", _name(checkpoint)).strip("-.")
    digits = checkpoint.fingerprint[:FINGERPRINT_DIGITS]
    return f"{recipe.publish.rstrip('/')}/{slug}-{recipe.name}-{recipe.version}-{digits}"


def _tell(outcomes: list[Outcome], recipe: Recipe) -> None:
    """The report: one log line per checkpoint, and a table and a page among Prefect's artifacts."""
    logger = get_run_logger()
    for outcome in outcomes:
        log = logger.warning if outcome.action == "given up" else logger.info
        log(f"{outcome.checkpoint}: {outcome.action}, {outcome.why}")
    logger.info(_headline(outcomes, recipe))
    key = f"ghost-watch-{recipe.name}"
    create_table_artifact([asdict(o) for o in outcomes], key=f"{key}-table", description=_headline(outcomes, recipe))
    create_markdown_artifact(_page(outcomes, recipe), key=key, description=f"The last look with {recipe.label}")


def _headline(outcomes: list[Outcome], recipe: Recipe) -> str:
    counts = [f"{sum(o.action == action for o in outcomes)} {action}" for action in ACTIONS]
    return f"found {len(outcomes)} in {recipe.source}: {', '.join(counts)}"


def _page(outcomes: list[Outcome], recipe: Recipe) -> str:
    rows = [f"| {_cell(o.checkpoint)} | {o.action} | {_cell(o.why)} | {_cell(o.target)} |" for o in outcomes]
    table = ["| checkpoint | | why | place of the pruned one |", "|---|---|---|---|", *rows]
    return f"# {recipe.label}\n\n{_headline(outcomes, recipe)}\n\n" + "\n".join(table if rows else []) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
