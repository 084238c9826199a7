"""What all tests share, set before torch and Prefect are imported, and inherited by the processes that tests start."""

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.run.evaluation_process import Job, Measured

PREFECT_HOME = tempfile.TemporaryDirectory(prefix="ghost-prefect-", ignore_cleanup_errors=True)
SHARED = tempfile.TemporaryDirectory(prefix="ghost-tests-", ignore_cleanup_errors=True)

os.environ |= {
    "OMP_NUM_THREADS": "1",  # two workers on two cores
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PREFECT_HOME": PREFECT_HOME.name,
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # as `ghost` sets it; it would go on with a stream that pytest has closed
    "PREFECT_LOGGING_TO_API_ENABLED": "false",  # so that nothing is sent to a server that a test has ended
    "DO_NOT_TRACK": "1",
}
os.environ.setdefault("GHOST_TESTS_SHARED", SHARED.name)  # the workers have that of the process which started them

settings.register_profile("ghost", derandomize=True, deadline=None)
settings.load_profile("ghost")

LONGEST = (
    "deployments", "watch", "processes", "resume", "flow", "stop", "cancel", "bad_run", "secrets", "server_start",
    "sweep_command", "s3_run", "hub", "batch_tokens", "team", "publish", "runtimes_bench", "evaluation_process",
    "methods_bench", "cuda_bench", "demo", "run_tasks", "hidden_packages",
)  # fmt: skip
"""Files that take longest, in this order: begun last, one of them would be all that the last worker is still at."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def evaluate_here(job: "Job", tokens: "Tensor", timeout: float, progress: Callable[[int], None]) -> "Measured":
    """As `evaluate_apart`, without the seconds that its process takes to import torch."""
    from tasks.run.evaluation_process import measure

    return measure(job, tokens, progress)


@pytest.fixture(scope="session", autouse=True)
def evaluations_in_this_process() -> Iterator[None]:
    """Runs in this process evaluate in it too; those of the command line and of workers do as users' do."""
    from tasks.run.open import Run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "evaluator", staticmethod(evaluate_here))
        yield


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server that all files share which do nothing to it but run."""
    from tests.chaos import prefect_server

    with prefect_server(tmp_path_factory.mktemp("prefect")) as api:
        yield api
