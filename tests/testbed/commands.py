"""Programs of the host that the real parts need."""

import os
import shutil

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find(program: str) -> str | None:
    """Absolute path of `program`, also where it lies in an administrator's folder; None if absent."""
    return shutil.which(program, path=_PATH)


def lacking(*programs: str) -> str:
    """Which of `programs` are not installed, as a reason; empty when all are there."""
    absent = [program for program in programs if not find(program)]
    return f"not installed: {', '.join(absent)}" if absent else ""
