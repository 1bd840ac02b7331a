"""The worker's one HTTP call: its registration at the gateway, and how the answer reads."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from cluster.topics import NODE_ID

TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024


class RegistrationError(Exception):
    """The gateway did not answer, or refused. `is_conflict`: the id belongs to another live node."""

    def __init__(self, words: str, *, is_conflict: bool = False) -> None:
        super().__init__(words)
        self.is_conflict = is_conflict


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a registration is answered with; `broker_host` "" where the answer does not say."""

    node_id: str
    broker_port: int
    broker_host: str = ""


def parse_membership(body: bytes) -> Membership:
    """`{"id", "MQTT_BROKER_PORT", "MQTT_BROKER_HOST"?}`; the port is a string or an integer. Raises ValueError."""
    answer: Any = orjson.loads(body)
    answer = answer if isinstance(answer, Mapping) else {}
    node_id, port, host = answer.get("id"), answer.get("MQTT_BROKER_PORT"), answer.get("MQTT_BROKER_HOST", "")
    if not isinstance(node_id, str) or not NODE_ID.match(node_id):
        raise ValueError("the answer has no usable id")
    if not str(port).isascii() or not str(port).isdigit() or not 0 < int(str(port)[:6]) < 65536:
        raise ValueError("the answer has no usable MQTT_BROKER_PORT")
    host = host if isinstance(host, str) else ""
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(f"the answer's MQTT_BROKER_HOST {host!r} is no host name") from None
    return Membership(node_id=node_id, broker_port=int(str(port)), broker_host=host)


async def register(gateway_url: str, body: bytes) -> Membership:
    """`POST /api/node/register`. Raises RegistrationError."""
    return await asyncio.to_thread(_register, gateway_url, body)


def _register(gateway_url: str, body: bytes) -> Membership:
    url = gateway_url.rstrip("/") + "/api/node/register"
    if not url.startswith(("http://", "https://")):
        raise RegistrationError(f"GATEWAY_URL {gateway_url!r} is not an http URL")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 - scheme checked
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return parse_membership(answer.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        raise RegistrationError(f"{error.code}: {_words_of(error)}", is_conflict=error.code == 409) from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # whatever answers there, it may be no gateway
        raise RegistrationError(f"{type(error).__name__}: {error}") from None


def _words_of(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return error.read(1000).decode(errors="replace")
        except (OSError, http.client.HTTPException) as broken:
            return str(broken)
