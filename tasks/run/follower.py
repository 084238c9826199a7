"""Another process of a run than rank 0: `python -m tasks.run.follower`, or `ghost run` under torchrun."""

import os
import sys
import threading
from typing import TYPE_CHECKING

from tasks.run.child import end_with_the_run

if TYPE_CHECKING:  # torch takes seconds, and the thread that ends an orphan has to stand before
    from torch._C._distributed_c10d import Store


class Following:
    """The meeting of this process and rank 0."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def meet(self) -> "Store":
        return self._store

    def why(self) -> str:
        return "rank 0 is gone, or another process"

    def end(self) -> None:
        pass


def follows() -> bool:
    """Whether torchrun has started this process, and as another one than the first."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 and os.environ.get("RANK") != "0"


def follow() -> int:
    """Do what rank 0 asks for, if there is work for this process; the exit code."""
    from torch.distributed.rendezvous import rendezvous

    from ghost.errors import GhostError, ProcessError, reason
    from ghost.out_of_memory import out_of_memory_in_one_line
    from ghost.team import PATIENCE, Gang
    from tasks.run.processes import LEFT, MEMBERS, REASON, here

    store, rank, _ = next(iter(rendezvous("env://", timeout=PATIENCE)))
    store.set(here(rank), "")
    if rank >= (members := int(store.get(MEMBERS))):
        return 0
    try:
        with out_of_memory_in_one_line():
            Gang(rank, members, Following(store)).follow()
    except ProcessError:
        return LEFT
    except Exception as error:
        words = str(error) if isinstance(error, GhostError) else reason(error)
        store.set(REASON, f"process {rank} of {members}: {words}")
        raise
    return 0


if __name__ == "__main__":
    threading.Thread(target=end_with_the_run, daemon=True).start()
    sys.exit(follow())
