"""Weights of the next decoder layer, read from their files while the layer before it computes."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from ghost.checkpoint.tensors import TensorFiles


class ReadAhead:
    """Some tensors of a checkpoint, read by a thread of its own before they are asked for; others when they are.

    Memory: what was read ahead stays until the next is, so that a layer and the one after it lie in the machine's
    memory at a time. `pinned`: in pages from which a GPU fetches without the CPU's help.
    """

    def __init__(self, tensors: TensorFiles, *, pinned: bool) -> None:
        self._tensors, self._pinned = tensors, pinned
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._names, self._coming = frozenset[str](), Future[dict[str, Tensor]]()

    def begin(self, names: Iterable[str]) -> None:
        """Read these from now on; what was read before them is let go."""
        self._names = frozenset(names)
        self._coming = self._thread.submit(self._read, sorted(self._names))

    def load(self, names: Iterable[str]) -> dict[str, Tensor]:
        """As `TensorFiles.load`, with its errors."""
        wanted = list(names)
        if not self._names.issuperset(wanted):
            return self._tensors.load(wanted)
        found = self._coming.result()
        return {name: found[name] for name in wanted}

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        read = self._tensors.load(names)
        return {name: tensor.pin_memory() for name, tensor in read.items()} if self._pinned else read
