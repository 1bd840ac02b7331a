"""Lines for people, beside the output, and the formats that output has."""

from __future__ import annotations

import sys
from enum import StrEnum


class Output(StrEnum):
    """How records are written."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def note(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
