"""What becomes of a command that is told to stop: one line, an exit code that tells the signal, and soon."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SECONDS = 5.0
"""From the signal to the end. Prefect may wait longer, for a server that got the same signal and is gone."""
LINE = "ghost: stopped; the same command continues from here"


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(143), and SECONDS after a SIGTERM or SIGINT the process is gone in any case.

    The wake-up descriptor tells of signals even while Prefect has a handler of its own, or a long operation runs.
    """
    unsaid = threading.Lock()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watch, args=(reader, unsaid), daemon=True).start()
    handler, descriptor = signal.signal(signal.SIGTERM, _terminate), signal.set_wakeup_fd(writer)
    try:
        yield
    except SystemExit as end:
        if end.code in CODES.values():
            _say(unsaid)
            handler = signal.SIG_IGN  # an impatient second signal has nothing more to stop
            signal.signal(signal.SIGINT, handler)
        raise
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, handler)
        os.close(writer)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(CODES[signal.Signals(number)])


def _watch(reader: int, unsaid: threading.Lock) -> None:
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while byte := signals.read(1):
            if byte[0] in CODES:
                time.sleep(SECONDS)
                _say(unsaid)
                os._exit(CODES[signal.Signals(byte[0])])


def _say(unsaid: threading.Lock) -> None:
    if unsaid.acquire(blocking=False):
        print(LINE, file=sys.stderr, flush=True)
