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
ASK = b"\0"
"""No signal has this number."""
LINE = "ghost: stopped; the same command continues from here"


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit(143); SECONDS after a SIGTERM or SIGINT the process is gone in any case.

    Whatever error comes out after a signal is the signal's doing (Prefect's engine, stopped halfway through making a
    task run, raises a ValueError of its own): it leaves as SystemExit with the signal's code, and the line is said.
    """
    watch = _Watch()
    handler, descriptor = signal.signal(signal.SIGTERM, _terminate), signal.set_wakeup_fd(watch.writer)
    try:
        yield
    except BaseException as error:
        number = watch.told()
        if number is None or (isinstance(error, SystemExit) and not error.code):
            raise
        watch.say()
        handler = signal.SIG_IGN  # an impatient second signal has nothing more to stop
        signal.signal(signal.SIGINT, handler)
        raise SystemExit(CODES[number]) from None
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, handler)
        os.close(watch.writer)


def _terminate(number: int, frame: object) -> NoReturn:
    raise SystemExit(CODES[signal.Signals(number)])


class _Watch:
    """Hears of signals through the wake-up descriptor: even while Prefect has a handler of its own, or a long operation
    runs."""

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self._number: signal.Signals | None = None
        self._read_so_far, self._unsaid = threading.Event(), threading.Lock()
        threading.Thread(target=self._listen, args=(reader,), daemon=True).start()

    def told(self) -> signal.Signals | None:
        """The first signal that came, if one did."""
        os.write(self.writer, ASK)
        self._read_so_far.wait()
        return self._number

    def say(self) -> None:
        if self._unsaid.acquire(blocking=False):
            print(LINE, file=sys.stderr, flush=True)

    def _listen(self, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as signals:
            while byte := signals.read(1):
                if byte == ASK:
                    self._read_so_far.set()
                elif byte[0] in CODES and self._number is None:
                    self._number = signal.Signals(byte[0])
                    threading.Thread(target=self._end, args=(self._number,), daemon=True).start()

    def _end(self, number: signal.Signals) -> NoReturn:
        time.sleep(SECONDS)
        self.say()
        os._exit(CODES[number])
