"""Running out of memory is something that a user can mend: it ends in one line that names what takes less."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import clear_frames

from ghost.errors import GhostError, MemoryLimitError

ALLOCATORS = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "bad_alloc")
"""How torch and its libraries say it, where they have no type of error for it."""
LEVERS = "a smaller --batch-tokens, --length or --window, or --dtype bfloat16"


@contextmanager
def out_of_memory_in_one_line(levers: str = LEVERS) -> Iterator[None]:
    """Inside, and as a decorator, running out of memory is a MemoryLimitError with the `levers`.

    What the frames of the allocator's error hold is let go of: the next cell of a sweep needs the room.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GhostError) or not is_out_of_memory(error):
            raise
        clear_frames(error.__traceback__)
        line = f"out of memory{_asked(error)}; give {levers}, or a machine with more memory"
        raise MemoryLimitError(line) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python, numpy, pyarrow, torch on a CPU or on a GPU."""
    named = isinstance(error, RuntimeError) and any(said in str(error) for said in ALLOCATORS)
    return isinstance(error, MemoryError) or named


def _asked(error: BaseException) -> str:
    """What could not be had, where the error says it."""
    found = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    return f": {found[1]} could not be had" if found else ""
