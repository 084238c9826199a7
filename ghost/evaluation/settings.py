"""What a run's two models are evaluated on."""

from typing import Self

from pydantic import Field, model_validator

from ghost.config import Settings
from ghost.evaluation.harness import named_benchmarks


class Evaluation(Settings):
    """Evaluation: what the dense and the pruned model are compared on."""

    evaluation: str = "stdlib"
    """Evaluation text, in the forms of the calibration text. `stdlib` never overlaps with the calibration text of that
    name."""
    window: int = Field(default=2048, ge=2)
    """Tokens of an evaluation window; windows don't overlap."""
    tasks: str = ""
    """lm-eval tasks that the dense and the pruned model are evaluated on, as for `ghost eval`: NAME,NAME or `default`;
    local_wikitext:FILE and local_lambada:FILE need no network."""
    limit: int | None = Field(default=None, ge=1)
    """Documents of each task, for a quick look; all of them without it."""
    allow_code: bool = False
    """Let tasks such as humaneval run the code that a model writes."""

    @model_validator(mode="after")
    def _possible_tasks(self) -> Self:
        named_benchmarks(self.tasks, allow_code=self.allow_code)
        return self
