"""Registration with a root R1: a short socket.io session over HTTP long polling, which every such root speaks.

Sources: engine.io protocol 4 and socket.io protocol 5 (packets are text: a digit each for the two layers, then the
namespace, a comma and JSON; several in one answer are separated by U+001E); sections 3.1 and 12.1 of the contract of
the deployed ecosystem for the events `sc1`, `cs1` and `sc2`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from manager.root.answers import Answer, away
from manager.root.errors import RootAwayError, RootError, RootRefusedError
from manager.root.keys import Attempt
from manager.root.settings import RootSettings
from manager.root.web import RootWeb

NAMESPACE: Final = "/register"
PATH: Final = "/socket.io/"
SEPARATOR: Final = "\x1e"
POLLING: Final = {"EIO": "4", "transport": "polling"}
MAX_WORDS: Final = 500
IDLE_S: Final = 0.02  # a root that answers polls with nothing at all must not keep us busy
OPEN, CLOSE, PING, PONG = "0", "1", "2", "3"
CONNECT, DISCONNECT, EVENT, CONNECT_ERROR = "40", "41", "42", "44"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A root's yes: the id under which to report, and from R1 the secret key for the next time."""

    cluster_id: str
    secret_key: str = ""


class NoAnswerError(RootError):
    """The root took the registration and never answered it."""


def cs1_of(settings: RootSettings, attempt: Attempt) -> dict[str, Any]:
    """What a cluster says of itself; every member is needed, ports are strings."""
    return {
        "manager_port": str(settings.gateway_port),
        "network_component_port": str(settings.cluster_service_manager_port),
        "cluster_name": settings.cluster_name,
        "cluster_info": {},
        "pairing_key": attempt.pairing_key,
        "secret_key": attempt.secret_key,
        "cluster_location": settings.location,
        "user_name": settings.user_name,
    }


def parse_sc2(argument: Any) -> Admission:
    """The root's answer, a JSON string. Raises RootRefusedError with the root's own words, RootAwayError."""
    try:
        answer = orjson.loads(argument) if isinstance(argument, str) else argument
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise RootAwayError(f"the root's answer to the registration is not understood: {str(argument)[:200]!r}")
    cluster_id = answer.get("id")
    if "error" not in answer and "warning" not in answer and isinstance(cluster_id, str) and cluster_id:
        return Admission(cluster_id=cluster_id, secret_key=str(answer.get("secret_key") or ""))
    raise RootRefusedError(str(answer.get("error") or answer.get("warning") or "the root gave no id")[:MAX_WORDS])


def event_packet(name: str, argument: Any) -> str:
    """An event as a packet."""
    return f"{EVENT}{NAMESPACE},{orjson.dumps([name, argument]).decode()}"


def parse_event(packet: str) -> tuple[str, Any] | None:
    """Name and first argument of an event of the namespace; None for any other packet."""
    head = f"{EVENT}{NAMESPACE},"
    if not packet.startswith(head):
        return None
    try:
        values = orjson.loads(packet[len(head) :].lstrip("0123456789"))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(values, list) or not values or not isinstance(values[0], str):
        return None
    return values[0], values[1] if len(values) > 1 else None


async def is_spoken(web: RootWeb) -> bool:
    """Whether the root speaks socket.io. Raises RootAwayError where it does not answer at all."""
    answer = await web.ask("GET", PATH, params=POLLING)
    if answer.is_later:
        raise away(answer, "the registration")
    return answer.status == 200 and answer.text.startswith(f"{OPEN}{{")


async def register(web: RootWeb, settings: RootSettings, attempt: Attempt) -> Admission:
    """One registration. Raises RootRefusedError, NoAnswerError or RootAwayError."""
    try:
        async with asyncio.timeout(settings.root_answer_s), _session(web) as session:
            await session.send(f"{CONNECT}{NAMESPACE},")
            return await _admitted(session, settings, attempt)
    except TimeoutError:
        raise NoAnswerError(f"the root did not answer the registration within {settings.root_answer_s:g} s") from None


async def _admitted(session: Session, settings: RootSettings, attempt: Attempt) -> Admission:
    """Greet with `cs1` after the root's first words, `sc1` or not, and wait for `sc2`."""
    is_greeted = False
    while True:
        for packet in await session.receive():
            if packet == PING:
                await session.send(PONG)
            elif packet == CLOSE or packet.startswith(f"{DISCONNECT}{NAMESPACE}"):
                raise RootAwayError("the root ended the registration")
            elif packet.startswith(f"{CONNECT_ERROR}{NAMESPACE}"):
                raise RootAwayError(f"the root has no {NAMESPACE}: {packet[:200]}")
            event = parse_event(packet)
            if event and event[0] == "sc2":
                return parse_sc2(event[1])
        if is_greeted:
            await asyncio.sleep(IDLE_S)
        else:
            is_greeted = True
            await session.send(event_packet("cs1", cs1_of(settings, attempt)))


@dataclass(frozen=True)
class Session:
    """An open engine.io session."""

    web: RootWeb
    sid: str

    async def send(self, packet: str) -> None:
        """Send one packet. Raises RootAwayError."""
        headers = {"Content-Type": "text/plain;charset=UTF-8"}
        content = packet.encode()
        _check(await self.web.ask("POST", PATH, params=self._params, content=content, headers=headers))

    async def receive(self) -> list[str]:
        """The next packets. Raises RootAwayError."""
        answer = await self.web.ask("GET", PATH, params=self._params)
        _check(answer)
        return answer.text.split(SEPARATOR)

    @property
    def _params(self) -> dict[str, str]:
        return {**POLLING, "sid": self.sid}


def _check(answer: Answer) -> None:
    if answer.status != 200:
        raise away(answer, "the registration")


@contextlib.asynccontextmanager
async def _session(web: RootWeb) -> AsyncIterator[Session]:
    answer = await web.ask("GET", PATH, params=POLLING)
    _check(answer)
    try:
        sid = orjson.loads(answer.text.split(SEPARATOR)[0].removeprefix(OPEN))["sid"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise RootAwayError(f"{web.base_url} does not speak socket.io") from None
    session = Session(web, str(sid))
    yield session
    with contextlib.suppress(RootAwayError):
        await session.send(f"{DISCONNECT}{NAMESPACE},")
