"""HTTP that cannot even be parsed is answered with a problem as well."""

from __future__ import annotations

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.problems import MEDIA_TYPE, problem_body

_BODY: Final = problem_body(
    400, "malformed_request", "Bad Request", "this is not HTTP/1.1; the request line or a header is malformed"
)
_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"
    + f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(_BODY)}\r\n\r\n".encode()
    + _BODY
)


class ProblemProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with our own answer to malformed requests."""

    def send_400_response(self, msg: str) -> None:
        """Answer and close; `msg` is uvicorn's own text."""
        self.transport.write(_ANSWER)
        self.transport.close()
