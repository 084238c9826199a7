"""What `ghost eval` is to measure. Impossible plans are refused when the object is made."""

from dataclasses import dataclass

from ghost.errors import SettingsError
from ghost.evaluation.harness import BenchmarkList, parse_benchmarks
from ghost.stored_state import parse_dtypes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Lists are comma-separated numbers; an empty one leaves its part out. SettingsError for what can't be measured."""

    contexts: str = "16,64,256,1024,2048"
    """Tokens of context to predict from."""
    segments: int = 128
    """Places of the text where tokens are predicted."""
    pairs: str = "4,16,64"
    """Key-value pairs of the recall probe."""
    distances: str = "0,256"
    """Tokens of text between the pairs and the question."""
    samples: int = 64
    """Prompts of each recall case."""
    batch_sizes: str = "1,8"
    """Sequences decoded at once."""
    state_dtype: str = ""
    """Precisions that the recurrent state is stored in, comma-separated; see `ghost.stored_state`."""
    tasks: str = ""
    """lm-eval tasks, comma-separated; `default` for the list of `ghost.evaluation.harness`."""
    limit: int | None = None
    """Documents of each task; all for None."""
    allow_code: bool = False
    """Whether tasks may run the code that a model writes."""
    seed: int = 0
    """Seed of the recall prompts and of lm-eval."""

    def __post_init__(self) -> None:
        for name in ("contexts", "pairs", "batch_sizes"):
            numbers(name, getattr(self, name), least=1)
        numbers("distances", self.distances, least=0)
        parse_dtypes(self.state_dtype)
        self.benchmark_list()

    def benchmark_list(self) -> BenchmarkList:
        return parse_benchmarks(self.tasks, allow_code=self.allow_code)


def numbers(name: str, spec: str, least: int) -> list[int]:
    """The numbers of a comma-separated list, in order, once each. SettingsError where one is no number or too small."""
    try:
        found = sorted({int(part) for part in spec.split(",") if part.strip()})
    except ValueError:
        raise SettingsError(f"{name}: {spec!r} is no list of whole numbers; give such as 16,64") from None
    if found and found[0] < least:
        raise SettingsError(f"{name}: {found[0]} is less than {least}; give such as 16,64")
    return found
