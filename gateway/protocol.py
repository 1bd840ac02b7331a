"""Below the application: malformed and endless heads are answered with problems, offers to upgrade are passed over."""

from __future__ import annotations

import re
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.problems import MEDIA_TYPE, problem_body

MAX_HEAD_BYTES: Final = 512 * 1024
_UPGRADE: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)


def _answer(status: int, title: str, reason: str, detail: str) -> bytes:
    body = problem_body(status, reason, title, detail)
    head = (
        f"HTTP/1.1 {status} {title}\r\nconnection: close\r\n"
        f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_MALFORMED: Final = _answer(
    400, "Bad Request", "malformed_request", "this is not HTTP/1.1; the request line or a header is malformed"
)
_TOO_LONG: Final = _answer(
    431, "Request Header Fields Too Large", "too_large", f"request line and headers exceed {MAX_HEAD_BYTES} bytes"
)


def without_upgrade(data: bytes) -> bytes:
    """The bytes with the Upgrade header of their head renamed.

    Java's HTTP client offers h2c with each first request; a server may ignore the offer (RFC 9110, 7.8), but uvicorn's
    parser then loses the body.
    """
    if not _UPGRADE.search(data):
        return data
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade-ignored:", head) + end + rest


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with our own answers to malformed and to endless heads, and without upgrades."""

    _is_in_head = True
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse, and give up on a head that does not end."""
        super().data_received(without_upgrade(data) if self._is_in_head else data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(_TOO_LONG)

    def on_headers_complete(self) -> None:
        """The head of a request has ended."""
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Its body has ended: what comes next is another head."""
        self._is_in_head = True
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer and close; `msg` is uvicorn's own text."""
        self._refuse(_MALFORMED)

    def _refuse(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()
