"""Progress bars on stderr: one for the layers, one for the evaluation."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Bars:
    """A `tasks.progress.Progress` that draws. Without a terminal, rich prints only the final state of the bars."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._opening = self._progress.add_task("opening model, texts and store", total=None)
        self._layers: TaskID | None = None
        self._tokens: TaskID | None = None

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, layers: int, evaluation_tokens: int) -> None:
        self._progress.remove_task(self._opening)
        self._layers = self._progress.add_task("layers", total=layers)
        if evaluation_tokens:
            self._tokens = self._progress.add_task("evaluating dense and pruned, tokens", total=evaluation_tokens)

    def layer(self, message: str) -> None:
        if self._layers is not None:
            self._progress.update(self._layers, advance=1, description=message)

    def evaluated(self, tokens: int) -> None:
        if self._tokens is not None:
            self._progress.update(self._tokens, advance=tokens)
