"""What an answer over HTTP means: it is taken, it comes later, or something in the question is wrong. Pure.

Sources: RFC 9110, section 10.2.3, for `Retry-After`; sections 12.1 and 12.2 of the contract of the deployed ecosystem
for what roots answer: "ok" to a report that they took, and 400 or 500 to one that they stumble over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final

import orjson

from manager.root.errors import ReportRefusedError, RootAwayError, RootBusyError

RETRY_AFTER_CAP_S: Final = 300.0
MAX_SHOWN: Final = 200
_LATER: Final = (408, 425, 429)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole answer; the names of `headers` are in small letters."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content as text; what is no UTF-8 is replaced."""
        return self.content.decode(errors="replace")

    @property
    def shown(self) -> str:
        """The beginning of the text in one line, for people."""
        return " ".join(self.text[: 2 * MAX_SHOWN].split())[:MAX_SHOWN]

    @property
    def is_redirect(self) -> bool:
        """Whether it points elsewhere."""
        return 300 <= self.status < 400

    @property
    def is_later(self) -> bool:
        """Whether it says nothing about the question, only that this is not the time or the place for it.

        A plain 500 is a program that stumbled, maybe over what it was told.
        """
        return self.status in _LATER or self.status > 500 or self.status < 200 or self.is_redirect


def away(answer: Answer, question: str) -> RootAwayError:
    """The error for an answer that is of no use to `question`, such as "GET /api/clusters/"."""
    text = f"the root answered {answer.status} to {question}"
    if answer.is_redirect:
        place = " ".join(answer.headers.get("location", "").split())[:MAX_SHOWN]
        return RootBusyError(f"{text}: it points to {place or 'nowhere'}; set SYSTEM_MANAGER_URL to the root itself")
    if answer.status >= 500 or answer.is_later:
        return RootBusyError(text, retry_after_s(answer.headers))
    return RootAwayError(text)


def check_report(answer: Answer) -> None:
    """Return where a report was taken. Raises RootBusyError, RootAwayError or ReportRefusedError."""
    if answer.is_later:
        raise away(answer, "a report")
    if answer.status >= 300:
        raise ReportRefusedError(f"the root answered {answer.status} to a report: {answer.shown}")
    if not _is_of_root(answer.content):
        raise RootAwayError(f"something that is no root answered {answer.status} to a report: {answer.shown}")


def _is_of_root(content: bytes) -> bool:
    """Roots say ok; a login page of some network in between does not."""
    text = content.strip()
    if not text or text.lower() == b"ok":
        return True
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def retry_after_s(headers: Mapping[str, str]) -> float:
    """The pause that an answer asks for, in seconds or until a date by its own clock; bounded, 0 where it does not."""
    value = headers.get("retry-after", "").strip()
    pause_s = float(value[:9]) if value.isascii() and value.isdigit() else _until_s(value, headers.get("date", ""))
    return min(max(pause_s, 0.0), RETRY_AFTER_CAP_S)


def _until_s(then: str, now: str) -> float:
    """From one date to another: our own clock may be wrong by years."""
    try:
        return (parsedate_to_datetime(then) - parsedate_to_datetime(now)).total_seconds()
    except (TypeError, ValueError, IndexError, OverflowError):
        return 0.0
