"""What an answer of a root, or of something before it, means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from unit.root.recordings import load, names

from manager.root.answers import RETRY_AFTER_CAP_S, Answer, away, check_report, retry_after_s
from manager.root.errors import ReportRefusedError, RootAwayError, RootBusyError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("name", [*names("R1/report-*-reply"), *names("R3/report-*-reply")])
def test_recorded_answers_to_reports_are_taken_or_refused(name: str) -> None:
    """No answer of a real root to a report means that the root is away, a stumble over its content neither."""
    reply = load(name)
    answer = Answer(status=reply["status"], content=reply["raw"].encode())
    if answer.status == 200:
        check_report(answer)
        return
    with pytest.raises(ReportRefusedError, match=str(answer.status)):
        check_report(answer)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 408, 425, 429, 502, 503, 504, 507, 520])
def test_later_is_no_refusal(status: int) -> None:
    """It says nothing about what was told, nor that the root forgot this cluster."""
    with pytest.raises(RootBusyError, match=str(status)):
        check_report(Answer(status=status))


@pytest.mark.parametrize("status", [400, 403, 404, 406, 413, 422, 500])
def test_refusal_may_be_about_what_was_told(status: int) -> None:
    """Whether it is shows a report without it."""
    with pytest.raises(ReportRefusedError):
        check_report(Answer(status=status, content=b"no\n\n  way"))


@pytest.mark.parametrize("content", [b"ok", b"", b'"ok"\n', b"OK", b'{"status": "ok"}'])
def test_yes_of_a_root_is_a_yes(content: bytes) -> None:
    """Roots say ok, one way or another."""
    check_report(Answer(status=200, content=content))


@pytest.mark.parametrize("content", [b"<html>Log in to use this network</html>", b"\x00\xff\xfe", b"welcome"])
def test_yes_of_something_else_is_none(content: bytes) -> None:
    """A login page of some network in between took no report."""
    with pytest.raises(RootAwayError, match="no root"):
        check_report(Answer(status=200, content=content))


def test_redirect_says_what_to_set() -> None:
    """Reports do not follow to places that nobody chose; the place is named, in one line."""
    answer = Answer(status=308, headers={"location": "https://root.example/\r\n x" + "y" * 500})
    text = str(away(answer, "a report"))
    assert "https://root.example/ xy" in text
    assert "SYSTEM_MANAGER_URL" in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("value", "pause_s"),
    [
        ("7", 7.0),
        (" 12 ", 12.0),
        ("86400", RETRY_AFTER_CAP_S),
        ("9" * 5000, RETRY_AFTER_CAP_S),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("٣", 0.0),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=30), usegmt=True), RETRY_AFTER_CAP_S),
    ],
)
def test_retry_after_is_honoured_within_bounds(value: str, pause_s: float) -> None:
    """Seconds, or a date that is compared with the answer's own; nonsense asks for nothing."""
    headers = {"retry-after": value, "date": format_datetime(NOW, usegmt=True)}
    assert retry_after_s(headers) == pause_s
    with pytest.raises(RootBusyError) as caught:
        check_report(Answer(status=503, headers=headers))
    assert caught.value.retry_after_s == pause_s


def test_date_without_the_answers_own_asks_for_nothing() -> None:
    """Our own clock may be wrong by years."""
    assert retry_after_s({"retry-after": format_datetime(NOW, usegmt=True)}) == 0.0


def test_answers_are_shown_short_and_in_one_line() -> None:
    """Whatever the root writes, it fits into a status."""
    assert Answer(status=500, content=b"a\n\tb\xff " + b"c" * 9999).shown[:6] == "a b\ufffd c"
    assert len(Answer(status=500, content=b"c" * 9999).shown) == 200
