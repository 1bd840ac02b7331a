"""A cpu limit without control groups: a forked companion stops and continues its parent by a duty cycle."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Final

PERIOD_S: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def throttle_this_process(millicores: int) -> None:
    """From here on this process gets about `millicores` thousandths of a core."""
    parent = os.getpid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            _hold_back(parent, millicores / 1000)
        finally:
            os._exit(0)


def _hold_back(pid: int, share: float) -> None:
    """Whenever the process is ahead of its share, it sleeps until it no longer is."""
    begin, used = time.monotonic(), _cpu_s(pid)
    while os.getppid() == pid:
        time.sleep(PERIOD_S * min(share, 1.0))
        ahead_s = (_cpu_s(pid) - used) / share - (time.monotonic() - begin)
        if ahead_s > 0:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(ahead_s)
            os.kill(pid, signal.SIGCONT)
        begin, used = time.monotonic(), _cpu_s(pid)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
