"""Progress bars on stderr: one for the layers, one for the evaluation."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from tasks.wording import layers_in_words


class Drawn:
    """Bars that are drawn while its block runs. Without a terminal, rich prints only their final state."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Bars(Drawn):
    """A `tasks.progress.Progress` that draws."""

    def __init__(self) -> None:
        super().__init__()
        self._opening = self._progress.add_task("opening model, texts and store", total=None)
        self._layers: TaskID | None = None
        self._tokens: TaskID | None = None

    def warn(self, sentence: str) -> None:
        """A line above the bars."""
        self._progress.console.print(Text(f"warning: {sentence}"), soft_wrap=True, style="yellow")

    def start(self, layers: int, mixers: int) -> None:
        self._progress.remove_task(self._opening)
        self._progress.console.print(layers_in_words(layers, mixers), highlight=False)
        self._layers = self._progress.add_task("layers", total=mixers)

    def layer(self, message: str) -> None:
        if self._layers is not None:
            self._progress.update(self._layers, advance=1, description=message)

    def evaluation(self, tokens: int) -> None:
        self._tokens = self._progress.add_task("evaluating dense and pruned, tokens", total=tokens)

    def evaluated(self, tokens: int) -> None:
        if self._tokens is not None:
            self._progress.update(self._tokens, advance=tokens)
