"""Answers up to 399: JSON by orjson, and the one that commands are answered with, made once."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.responses import Response

_OK: Final = b'{"status":"ok"}'


class JsonResponse(Response):
    """A JSON value."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The value as JSON text."""
        return orjson.dumps(content)


def ok() -> Response:
    """`{"status": "ok"}`."""
    return Response(_OK, media_type="application/json")
