"""What a command can end with: an exit status for scripts and words for people."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """The exit statuses, the same for every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    TIMEOUT = 5
    INTERRUPTED = 130


EXIT_CODES_HELP: Final = (
    "Exit status: 0 done; 1 failed or refused; 2 wrong usage or input; 3 no such node, job or instance; "
    "4 nothing answers at the address; 5 --wait ran out of time; 130 interrupted."
)


class CommandError(Exception):
    """A command cannot do what was asked."""

    def __init__(self, detail: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class UnreachableError(CommandError):
    """Nothing answers at the manager's address."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, ExitCode.UNREACHABLE)


class UsageError(CommandError):
    """The command line or a file that it names is wrong."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, ExitCode.USAGE)
