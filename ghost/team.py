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
from functools import cached_property, reduce
from typing import Any, Protocol, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from ghost.errors import ProcessError

T = TypeVar("T")
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

    def share(self, batches: Sequence[slice]) -> slice:
        """The rows of this process: whole batches, as many as any other has or one less."""
        first, last = (-(-len(batches) * rank // self.size) for rank in (self.rank, self.rank + 1))
        return slice(batches[first].start, batches[last - 1].stop)

    def sum(self, parts: Iterable[Tensor]) -> Tensor:
        """The sum of the parts of all processes, one a batch, in the order of the batches; every process has it."""
        return reduce(torch.add, parts)

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

    def sum(self, parts: Iterable[Tensor]) -> Tensor:
        held = [*parts] if self.rank else [*_added(None, parts)]  # those after rank 0 wait for what comes before theirs
        with self._noticing():
            before = self._receive(self.rank - 1) if self.rank else None
            total = next(_added(before, held), None)
            if self.rank < self.size - 1:
                self._send(total, self.rank + 1)
            total = self._broadcast(total, self.size - 1)
        assert total is not None, "a sum of nothing"
        return total.to(held[0].device) if held else total

    def gather(self, rows: Tensor) -> Tensor:
        with self._noticing():
            if self.rank:
                self._send(rows, 0)
                return rows
            others = (self._receive(rank) for rank in range(1, self.size))
            return torch.cat([rows, *(part.to(rows.device) for part in others if part is not None)])

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

    def _send(self, tensor: Tensor | None, to: int) -> None:
        dist.send_object_list([_kind(tensor)], to, self._group)
        if tensor is not None:
            dist.send(tensor.cpu().contiguous(), to, self._group)

    def _receive(self, source: int) -> Tensor | None:
        kind: list[Any] = [None]
        dist.recv_object_list(kind, source, self._group)
        tensor = _empty(kind[0])
        if tensor is not None:
            dist.recv(tensor, source, self._group)
        return tensor

    def _broadcast(self, tensor: Tensor | None, source: int) -> Tensor | None:
        kind: list[Any] = [_kind(tensor)]
        dist.broadcast_object_list(kind, source, self._group)
        told = _empty(kind[0]) if tensor is None or self.rank != source else tensor.cpu().contiguous()
        if told is not None:
            dist.broadcast(told, source, self._group)
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


def _added(total: Tensor | None, parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """The sum, from left to right; nothing where there is nothing."""
    for part in parts:
        total = part if total is None else total.to(part.device) + part
    if total is not None:
        yield total


def _kind(tensor: Tensor | None) -> tuple[torch.Size, torch.dtype] | None:
    return None if tensor is None else (tensor.shape, tensor.dtype)


def _empty(kind: tuple[torch.Size, torch.dtype] | None) -> Tensor | None:
    return None if kind is None else torch.empty(kind[0], dtype=kind[1])
