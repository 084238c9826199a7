"""The processes of a run. Each takes its share of the batches through every layer, and what they find is added up in
the order of the batches: any number of processes gives the same bytes.

Which windows form a batch never depends on how many processes there are, and shares are contiguous: a sum that rank 0
begins with its batches goes from process to process, and is added up as one process would.

Statistics are small and are added in float64, so they travel by gloo, through the machine's memory, on GPUs too.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from ghost.errors import ProcessError

T = TypeVar("T")
Tensors = tuple[Tensor, ...]
HELD_BYTES = 1 << 30
"""Most that a process holds of its own sums while it waits for the sum that comes before them; then it waits first."""
PATIENCE = timedelta(days=7)
"""What is waited for takes as long as it takes, such as rank 0 fitting a layer alone. A process that is gone is noticed
at once, by its connections."""
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


class Team:
    """One process, which has all batches."""

    rank: int = 0
    size: int = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        pass

    def share(self, batches: Sequence[T]) -> Sequence[T]:
        """The batches of this process: as many as any other has, or one less."""
        first, last = (-(-len(batches) * rank // self.size) for rank in (self.rank, self.rank + 1))
        return batches[first:last]

    def sums(self, parts: Iterable[Tensors]) -> Tensors:
        """The sums of what the batches of all processes come to, in the batches' order; every process has them."""
        return _added((), parts)

    def sum(self, parts: Iterable[Tensor]) -> Tensor:
        """The same of one tensor a batch."""
        (total,) = self.sums((part,) for part in parts)
        return total

    def count(self, numbers: Iterable[int]) -> int:
        """The sum of the numbers of all processes."""
        return int(self.sum(torch.tensor(number) for number in numbers))

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes in their order, at rank 0; the others keep theirs."""
        return rows

    def lead(self, make: Callable[[], T]) -> T:
        """What rank 0 makes; every process has it."""
        return make()


ALONE = Team()


class Meeting(Protocol):
    """How the processes of a gang come together, and apart."""

    def meet(self) -> Store:
        """Where they find each other, once all are there."""
        ...

    def why(self) -> str:
        """What became of a process that is gone, and what to do."""
        ...

    def end(self) -> None:
        """Nothing more is asked of the others."""
        ...


class Gang(Team):
    """Several processes, of which this is one: each has a batch at least. They meet when rank 0 begins; its block
    `with gang:` ends it for all. ProcessError where a process is gone.
    """

    def __init__(self, rank: int, size: int, meeting: Meeting) -> None:
        self.rank, self.size, self._meeting = rank, size, meeting

    def __exit__(self, kind: object, *_: object) -> None:
        has_met = "_group" in self.__dict__
        if has_met and kind is None:
            with suppress(ProcessError):
                self.lead(lambda: None)
        self._meeting.end()
        if has_met:
            del self._group
            dist.destroy_process_group()

    def begin(self, make: Callable[..., object], *arguments: Any) -> None:
        """Rank 0's: each of the others makes something of its team and the arguments, whose methods `ask` calls."""
        self.lead(lambda: (make, arguments))

    def ask(self, method: str, *arguments: Any) -> None:
        """Rank 0's: the others call this method of what they have made, and go on as it returns."""
        self.lead(lambda: (method, arguments))

    def follow(self) -> None:
        """The others': as rank 0 begins and asks, until it ends."""
        made: object = None
        while (asked := self.lead(nothing)) is not None:
            what, arguments = asked
            if callable(what):
                made = what(self, *arguments)
            else:
                getattr(made, what)(*arguments)

    def sums(self, parts: Iterable[Tensors]) -> Tensors:
        parts = iter(parts)
        held = [*_within(HELD_BYTES, parts)] if self.rank else []  # what comes before them is not there yet
        before = self._receive(self.rank - 1) if self.rank else ()
        total = _added(before, chain(held, parts))
        if self.rank < self.size - 1:
            self._send(total, self.rank + 1)
        return self._broadcast(total, self.size - 1)

    def gather(self, rows: Tensor) -> Tensor:
        if self.rank:
            self._send((rows,), 0)
            return rows
        others = (self._receive(rank) for rank in range(1, self.size))
        return torch.cat([rows, *(part.to(rows.device) for parts in others for part in parts)])

    def lead(self, make: Callable[[], T]) -> T:
        made: list[Any] = [None if self.rank else make()]
        with self._noticing():
            dist.broadcast_object_list(made, src=0, group=self._group)
        return made[0]

    @cached_property
    def _group(self) -> dist.ProcessGroup:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # gloo would look up the name of the host
        store = self._meeting.meet()
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=PATIENCE)
        assert dist.group.WORLD is not None
        return dist.group.WORLD

    def _send(self, tensors: Tensors, to: int) -> None:
        with self._noticing():
            dist.send_object_list([_kinds(tensors)], to, self._group)
            for tensor in tensors:
                dist.send(_plain(tensor), to, self._group)

    def _receive(self, source: int) -> Tensors:
        kinds: list[Any] = [None]
        with self._noticing():
            dist.recv_object_list(kinds, source, self._group)
            tensors = _empty(kinds[0])
            for tensor in tensors:
                dist.recv(tensor, source, self._group)
        return tensors

    def _broadcast(self, tensors: Tensors, source: int) -> Tensors:
        kinds: list[Any] = [_kinds(tensors)]
        with self._noticing():
            dist.broadcast_object_list(kinds, source, self._group)
            told = tuple(map(_plain, tensors)) if self.rank == source else _empty(kinds[0])
            for tensor in told:
                dist.broadcast(tensor, source, self._group)
        return told

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:  # gloo's: the other end of a connection is gone
            raise ProcessError(self._meeting.why()) from None


def nothing() -> Any:
    """What the others make where rank 0 makes something for all."""
    raise AssertionError("rank 0 makes it")


def _added(total: Tensors, parts: Iterable[Tensors]) -> Tensors:
    """The sums from left to right; nothing yet is no tensor at all."""
    for part in parts:
        total = tuple(a.to(b.device) + b for a, b in zip(total, part, strict=True)) if total else part
    return total


def _within(most_bytes: int, parts: Iterator[Tensors]) -> Iterator[Tensors]:
    """The first parts, as many as don't take more."""
    while most_bytes > 0 and (part := next(parts, ())):
        most_bytes -= sum(tensor.nbytes for tensor in part)
        yield part


def _kinds(tensors: Tensors) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def _empty(kinds: list[tuple[torch.Size, torch.dtype]]) -> Tensors:
    return tuple(torch.empty(shape, dtype=dtype) for shape, dtype in kinds)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.cpu().contiguous()
