"""Why the root and this cluster are not together."""

from __future__ import annotations


class RootError(Exception):
    """The root and this cluster cannot work together now; the text says why and, where it can, what to do."""


class RootAwayError(RootError):
    """The root cannot be reached, or answers nothing sensible: it is tried again."""


class RootRefusedError(RootError):
    """The root answered that it does not admit this cluster."""


class ReportRefusedError(RootError):
    """The root did not take a report, which it had received."""
