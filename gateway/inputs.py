"""What comes with a request: bodies read within bounds, numbers and words in paths and queries."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from starlette.requests import Request

from cluster.documents import MAX_BODY_BYTES, parse_json
from cluster.errors import InvalidInputError
from gateway.problems import BodyTimeoutError, BodyTooLargeError

MAX_INSTANCE_NUMBER: Final = 2**31 - 1
MAX_PAGE_SIZE: Final = 1000
_INTEGER: Final = re.compile(r"(?:-?[1-9][0-9]{0,9}|0[0-9]{0,9})\Z", re.ASCII)  # "-01" must not mean all
_FLAGS: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
Value = TypeVar("Value")


async def read_json(request: Request) -> Any:
    """The JSON value of the body, whatever its content type. Raises a ClusterError or BodyTimeoutError."""
    return parse_json(await read_body(request))


async def read_body(request: Request) -> bytes:
    """The body, of which at most 4 MiB are read. Raises BodyTooLargeError or BodyTimeoutError."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced[:20]) > MAX_BODY_BYTES:
        raise _too_large(f"the body has {announced[:20]} bytes")
    try:
        async with asyncio.timeout(request.app.state.settings.body_timeout_s):
            return await _collect(request)
    except TimeoutError:
        raise BodyTimeoutError from None


async def _collect(request: Request) -> bytes:
    chunks = []
    size = 0
    async for chunk in request.stream():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _too_large("the body is longer than that")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(what: str) -> BodyTooLargeError:
    return BodyTooLargeError(f"at most {MAX_BODY_BYTES} bytes are taken: {what}", field="body")


def parse_integer(text: str, field: str, minimum: int, maximum: int) -> int:
    """A decimal integer within bounds. Raises InvalidInputError that names the field and the bounds."""
    if _INTEGER.match(text) and minimum <= int(text) <= maximum:
        return int(text)
    raise InvalidInputError(f"{field} {text[:40]!r} is not an integer from {minimum} to {maximum}", field=field)


def parse_instance_number(text: str, minimum: int = 0) -> int:
    """The number of an instance; `minimum` -1 where -1 means all."""
    return parse_integer(text, "instance_number", minimum, MAX_INSTANCE_NUMBER)


def parse_page_size(text: str) -> int:
    """1..1000; 0 means the manager's default."""
    return parse_integer(text, "page_size", 0, MAX_PAGE_SIZE)


def parse_flag(text: str, field: str) -> bool:
    """`true` or `false`, `1` or `0`, `yes` or `no`."""
    flag = _FLAGS.get(text.lower())
    if flag is None:
        raise InvalidInputError(f"{field} must be true or false, not {text[:40]!r}", field=field)
    return flag


def parse_words(texts: Sequence[str], known: Mapping[str, Value], field: str) -> list[Value]:
    """The values of words, given several times or separated by commas, in any case."""
    words = [word.strip().upper() for text in texts for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in known]
    if unknown:
        raise InvalidInputError(f"unknown {field} {unknown[0][:40]!r}; known: {', '.join(known)}", field=field)
    return [known[word] for word in words]


def parse_object(value: object, what: str) -> Mapping[str, Any]:
    """A JSON object. Raises InvalidInputError."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} must be a JSON object", field="body")
    return value


def parse_count(value: object, field: str, maximum: int) -> int:
    """A JSON integer from 0 to `maximum`. Raises InvalidInputError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum:
        return value
    raise InvalidInputError(f"{field} must be an integer from 0 to {maximum}", field=field)


def parse_node(value: object, field: str) -> str:
    """A node's id, alias or name, a string or an integer. Raises InvalidInputError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= 253:
        return value
    raise InvalidInputError(f"{field} must be a node's id or name, a string", field=field)
