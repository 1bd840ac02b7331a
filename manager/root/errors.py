"""Why the root and this cluster are not together."""

from __future__ import annotations


class RootError(Exception):
    """The root and this cluster cannot work together now; the text says why and, where it can, what to do."""


class RootAwayError(RootError):
    """The root cannot be reached, or answers nothing sensible: it is tried again, not before `retry_after_s`."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class RootBusyError(RootAwayError):
    """The root, or a proxy before it, answered that it can take nothing now: it has not forgotten this cluster."""


class RootRefusedError(RootError):
    """The root answered that it does not admit this cluster."""


class ReportRefusedError(RootError):
    """The root did not take a report, which it had received: the fault may be in what the report tells."""
