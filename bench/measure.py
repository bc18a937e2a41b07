"""Runs a command as a whole process and says what it took."""

import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass


@dataclass
class Cost:
    """What one command took: seconds, seconds of processor time, bytes of memory at the peak."""

    wall: float
    cpu: float
    memory: int


class Failed(Exception):
    """A command that was to be measured did not do its work."""


def measure(command: list[str], env: dict[str, str]) -> Cost:
    # What the command before has left to be written must not be paid for by this one.
    os.sync()
    with tempfile.TemporaryFile() as log:
        begin = time.monotonic()
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            tail = b"\n".join(log.read().splitlines()[-15:]).decode(errors="replace")
            raise Failed(f"{' '.join(command)}\nended with {process.returncode}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(c, field) for c in costs) for field in ("wall", "cpu", "memory")))
