"""The processes that a run takes beside its own: started here when they are needed, or by torchrun before it.

Either way they do as `tasks.run.follower` says. They meet at a store of torch's, which says how many have work.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from ghost.errors import ProcessError, SettingsError
from ghost.settings import RunSettings
from ghost.team import ALONE, PATIENCE, Gang, Team
from tasks.run.child import end_group, end_with_torchrun, environment, how_it_ended

HOST = "127.0.0.1"
MEMBERS, REASON = "members", "reason"
"""Keys of the store: how many processes there is work for, and why one of them has ended."""
LEFT = 3
"""Exit code of a process that ends because another one did."""
NOTICE_SECONDS = 5.0
"""How long it may take until the end of a process is noticed, and until its reason is known."""
AGAIN = "the same command continues from here"

Started = dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]]
"""Processes by rank, and what they have written."""


def processes_for(settings: RunSettings, device: torch.device) -> int:
    """How many processes the settings ask for. SettingsError where there are not as many GPUs for them."""
    asked = settings.processes
    if asked == 0 and device.type != "cuda":
        raise SettingsError("processes: 0 is one per GPU, and the device is the CPU; give a number, such as 2")
    if device.type != "cuda" or asked == 1:
        return asked
    if device.index:
        raise SettingsError(f"device: {device} is one GPU, and each of several processes takes one; give --device cuda")
    if asked > (gpus := torch.cuda.device_count()):
        raise SettingsError(f"processes: {asked} take a GPU each, and there are {gpus}; give --processes 0 for all")
    return asked or gpus


def torchrun_processes(settings: RunSettings) -> int:
    """How many processes torchrun has started; 1 without it. SettingsError where a run can't be made of them."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if int(os.environ.get("LOCAL_WORLD_SIZE", size)) != size:
        raise SettingsError(
            f"torchrun started {size} processes on several nodes, and a run takes one; spread a sweep over them instead"
        )
    if size > 1 and settings.processes not in (1, size):
        raise SettingsError(
            f"processes: {settings.processes} asked for, but torchrun started {size}; leave --processes out"
        )
    return size


def threads_each(processes: int) -> int:
    """Threads that each process computes on: its part of the cores, or as OMP_NUM_THREADS says, as under torchrun."""
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else max(1, threads // processes)


def hire(processes: int, threads: int) -> Team:
    """A team of so many processes of this machine, each on so many threads, led by this one, which starts the others
    when it begins."""
    return Gang(0, processes, Hired(processes, threads)) if processes > 1 else ALONE


def join(members: int) -> Team:
    """The team of those that torchrun has started, led by this one; of the others, only so many have work."""
    return Gang(0, members, Joined(members))


class Joined:
    """The meeting of those that torchrun has started. It ends them all with the first that fails."""

    def __init__(self, members: int) -> None:
        end_with_torchrun()
        self._members = members
        self._store, _, _ = next(iter(rendezvous("env://", timeout=PATIENCE)))

    def meet(self) -> Store:
        self._store.set(MEMBERS, str(self._members))
        return self._store

    def why(self) -> str:
        return _found(self._reason) or f"one of the run's processes is gone; {AGAIN}"

    def end(self) -> None:
        with suppress(dist.DistError):  # the store is torchrun's, and gone with it
            if not self._store.check([MEMBERS]):  # there was nothing to do
                self._store.set(MEMBERS, "0")

    def _reason(self) -> str | None:
        with suppress(dist.DistError):
            return self._store.get(REASON).decode() if self._store.check([REASON]) else None
        return None


class Hired:
    """The meeting of processes that this one starts. They end with it, however it ends."""

    def __init__(self, size: int, threads: int) -> None:
        self._size, self._threads, self._threads_before = size, threads, torch.get_num_threads()
        self._started: Started = {}
        self._ended = threading.Event()

    def meet(self) -> Store:
        torch.set_num_threads(self._threads)
        self._store = _open_store()
        self._store.set(MEMBERS, str(self._size))
        for rank in range(1, self._size):
            self._started[rank] = _start(rank, self._size, self._store.port)
        threading.Thread(target=self._watch, daemon=True).start()
        while not self._store.check([here(rank) for rank in self._started]):
            if self._dead():
                raise ProcessError(self.why())
            time.sleep(0.05)
        return self._store

    def why(self) -> str:
        return _found(self._reason) or f"one of the run's processes is gone; {AGAIN}"

    def end(self) -> None:
        self._ended.set()
        for process, log in self._started.values():
            end_group(process.pid)
            process.communicate()
            log.close()
        self._started = {}
        torch.set_num_threads(self._threads_before)

    def _reason(self) -> str | None:
        if self._store.check([REASON]):
            return self._store.get(REASON).decode()
        for rank, (process, log) in self._dead().items():
            how = how_it_ended(process.returncode, log)
            return f"process {rank} of {self._size} {how}; see that there is memory for all of them, and {AGAIN}"
        return None

    def _dead(self) -> Started:
        """Those that have ended, and not because another one did."""
        return {rank: one for rank, one in self._started.items() if one[0].poll() not in (None, LEFT)}

    def _watch(self) -> None:
        """Stop this process where another one is gone and it can't notice, since it computes something long alone."""
        while not self._ended.wait(0.2):
            if self._dead() and not self._ended.wait(NOTICE_SECONDS):
                print(f"ghost: {self.why()}", file=sys.stderr, flush=True)
                os.kill(os.getpid(), signal.SIGTERM)
                return


def here(rank: int) -> str:
    """The key of the store that says that a process has come."""
    return f"here {rank}"


def _open_store() -> TCPStore:
    """On the loopback alone: torch's own socket would be open to the network."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        return TCPStore(
            HOST, port, is_master=True, wait_for_workers=False, timeout=PATIENCE, master_listen_fd=listening.detach()
        )


def _start(rank: int, size: int, port: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    place = {"MASTER_ADDR": HOST, "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
    command, log = [sys.executable, "-P", "-m", "tasks.run.follower"], tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        command,
        env=environment(**threads, **place),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    return process, log


def _found(reason: Callable[[], str | None]) -> str | None:
    """The reason, which may come a moment later."""
    deadline = time.monotonic() + NOTICE_SECONDS
    while (found := reason()) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
