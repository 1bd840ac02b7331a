"""The registrations that were recorded with real roots, played against our side byte for byte."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from unit.root.recordings import load, names

from cluster.v1.registration.cluster_registration_pb2 import CS1Message, SC1Message, SC2Message
from manager.root import registration, socketio
from manager.root.errors import RootAwayError, RootRefusedError
from manager.root.handshake import handshake
from manager.root.keys import Attempt
from manager.root.settings import RootSettings
from manager.root.socketio import Admission, NoAnswerError
from manager.root.web import RootWeb

POLLING = "R1/36-polling-transport-session"
WHOLE = [
    name
    for name in names("R1/*-cs1")
    if load(name)["raw"].startswith('42/register,["cs1",{') and len(load(name)["body"]) == 8
]


def _settings(**values: Any) -> RootSettings:
    facts = {"cluster_name": "cluster-1", "user_name": "Admin", "cluster_location": "48.1,11.6,1000"}
    ports = {"gateway_port": 10190, "cluster_service_manager_port": 10110}
    return RootSettings(**{**facts, **ports, "system_manager_url": "root", "root_answer_s": 1, **values})


def _as_sent(body: dict[str, Any]) -> tuple[RootSettings, Attempt]:
    settings = _settings(
        cluster_name=body["cluster_name"],
        user_name=body["user_name"],
        cluster_location=body["cluster_location"],
        gateway_port=body["manager_port"],
        cluster_service_manager_port=body["network_component_port"],
    )
    return settings, Attempt(pairing_key=body["pairing_key"], secret_key=body["secret_key"])


@pytest.mark.parametrize("name", WHOLE)
def test_our_cs1_is_the_recorded_one(name: str) -> None:
    """What we send is, byte for byte, what a real root was sent with these settings and keys."""
    recorded = load(name)
    settings, attempt = _as_sent(recorded["body"])
    assert socketio.event_packet("cs1", socketio.cs1_of(settings, attempt)) == recorded["raw"]


@pytest.mark.parametrize("name", names("R1/*-sc2"))
def test_every_recorded_answer_of_r1_is_understood(name: str) -> None:
    """Each is an admission with id and secret key, or a refusal in the root's words."""
    recorded = load(name)
    if "-no-sc2" in name:
        return
    event = socketio.parse_event(recorded["raw"])
    assert event is not None
    body = recorded["body"]
    if "error" in body or "warning" in body:
        with pytest.raises(RootRefusedError, match=r".") as caught:
            socketio.parse_sc2(event[1])
        assert str(caught.value) == body.get("error", body.get("warning"))
    else:
        admission = socketio.parse_sc2(event[1])
        assert (admission.cluster_id, admission.secret_key) == (body["id"], body["secret_key"])


class _Polled:
    """Answers as a recorded long-polling session, and keeps what was sent."""

    def __init__(self, frames: list[dict[str, Any]]) -> None:
        self.answers = [frame["raw"] for frame in frames if frame["direction"] == "root→cluster"]
        self.sent: list[str] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.sent.append((await request.aread()).decode())
            return httpx.Response(200, text="OK")
        return httpx.Response(200, text=self.answers.pop(0) if self.answers else "6")


def _web(handler: Any) -> RootWeb:
    web = RootWeb("http://root:10000", 1.0)
    web._client = httpx.AsyncClient(base_url=web.base_url, transport=httpx.MockTransport(handler))
    return web


async def test_recorded_polling_session_is_played_byte_for_byte() -> None:
    """A whole session: what we send is what was recorded, and the answer is the recorded id and key."""
    frames = load(POLLING)["frames"]
    polled = _Polled(frames)
    message = next(frame["raw"] for frame in frames if '"cs1"' in frame["raw"])
    body = json.loads(message[message.index("[") :])[1]
    settings, attempt = _as_sent(body)
    web = _web(polled)
    admission = await socketio.register(web, settings, attempt)
    await web.close()
    assert polled.sent == [frame["raw"] for frame in frames if frame["direction"] == "cluster→root"]
    assert admission.cluster_id == "6b0326dd79462142fca12521"
    assert admission.secret_key.startswith("eyJ")


OPENING = ["R1/01-engineio-open", "R1/03-sc1", "R1/04-namespace-connect-ack"]


async def _session_of(answers: list[str], body: dict[str, Any]) -> tuple[_Polled, Admission | str]:
    """What we send in a session with these answers, and how it ends: with an admission or with words."""
    polled = _Polled([{"direction": "root→cluster", "raw": raw} for raw in answers])
    web = _web(polled)
    try:
        return polled, await socketio.register(web, *_as_sent(body))
    except RootRefusedError as refusal:
        return polled, str(refusal)
    finally:
        await web.close()


@pytest.mark.parametrize("together", [False, True], ids=["packet-by-packet", "in-one-answer"])
async def test_every_frame_of_a_first_pairing_is_played(together: bool) -> None:
    """Frames 01 to 07, sc1 before the acknowledgement of the namespace: we send connect, cs1 and disconnect as then."""
    opening, sc1, acknowledgement = (load(name)["raw"] for name in OPENING)
    greeting = [sc1 + socketio.SEPARATOR + acknowledgement] if together else [sc1, acknowledgement]
    answers = [opening, *greeting, load("R1/06-sc2")["raw"]]
    polled, admission = await _session_of(answers, load("R1/05-cs1")["body"])
    ours = ["R1/02-namespace-connect", "R1/05-cs1", "R1/07-namespace-disconnect"]
    assert polled.sent == [load(name)["raw"] for name in ours]
    assert isinstance(admission, Admission)
    assert admission.cluster_id == load("R1/06-sc2")["body"]["id"]


@pytest.mark.parametrize("name", [name for name in names("R1/*-sc1") if name != "R1/03-sc1"])
async def test_every_recorded_session_is_played(name: str) -> None:
    """Each greeting and what came of it: an admission, a refusal in the root's words, or no answer within the wait."""
    opening, _, acknowledgement = (load(name)["raw"] for name in OPENING)
    stem = name.removesuffix("-sc1")
    is_answered = f"{stem}-sc2" in names("R1/*-sc2")
    answers = [opening, load(name)["raw"], acknowledgement]
    body = load(f"{stem}-cs1")["body"] if f"{stem}-cs1" in WHOLE else load("R1/05-cs1")["body"]
    if not is_answered:
        with pytest.raises(NoAnswerError):
            await _session_of(answers, body)
        return
    sc2 = load(f"{stem}-sc2")
    polled, outcome = await _session_of([*answers, sc2["raw"]], body)
    if f"{stem}-cs1" in WHOLE:
        assert polled.sent[1] == load(f"{stem}-cs1")["raw"]
    if isinstance(outcome, Admission):
        assert (outcome.cluster_id, outcome.secret_key) == (sc2["body"]["id"], sc2["body"]["secret_key"])
    else:
        assert outcome == sc2["body"].get("error", sc2["body"].get("warning"))


async def test_recorded_session_without_waiting_is_played() -> None:
    """The root greets and acknowledges after cs1 as well, and its answer stands."""
    frames = load("R1/35-cs1-sent-without-waiting")["frames"]
    sent = [frame["raw"] for frame in frames if frame["direction"] == "cluster→root"]
    answers = [frame["raw"] for frame in frames if frame["direction"] == "root→cluster"]
    polled, admission = await _session_of(answers, json.loads(sent[1][sent[1].index("[") :])[1])
    assert polled.sent[:2] == sent
    assert isinstance(admission, Admission)
    assert admission.cluster_id == "6b0326dd79462142fca12521"


async def test_root_that_never_answers_is_given_up() -> None:
    """Some inputs get no sc2 at all: the wait ends."""
    frames = load(POLLING)["frames"]
    polled = _Polled(frames)
    polled.answers = polled.answers[:2]

    async def slow(request: httpx.Request) -> httpx.Response:
        import asyncio

        if request.method == "GET" and not polled.answers:
            await asyncio.sleep(5)
        return await polled(request)

    web = _web(slow)
    with pytest.raises(NoAnswerError):
        await socketio.register(web, _settings(root_answer_s=0.2), Attempt(pairing_key="k", secret_key=""))
    await web.close()


@pytest.mark.parametrize("text", ["6", "1", "41/register,", '44/register,{"message":"no"}'])
async def test_ended_sessions_are_a_root_that_is_away(text: str) -> None:
    """A session that the root ends, or in which nothing happens, is no crash."""

    async def handler(request: httpx.Request) -> httpx.Response:
        is_open = "sid" not in request.url.params
        return httpx.Response(200, text='0{"sid":"s"}' if is_open else text)

    web = _web(handler)
    with pytest.raises((RootAwayError, NoAnswerError)):
        await socketio.register(web, _settings(root_answer_s=0.2), Attempt(pairing_key="k", secret_key=""))
    await web.close()


async def test_ping_is_answered() -> None:
    """A ping of the transport gets its pong, in the middle of a registration."""
    polled = _Polled([])
    polled.answers = ['0{"sid":"s"}', "2", '42/register,["sc2","{\\"id\\":\\"x\\",\\"secret_key\\":\\"y\\"}"]']
    web = _web(polled)
    await socketio.register(web, _settings(), Attempt(pairing_key="k", secret_key=""))
    await web.close()
    assert "3" in polled.sent


async def test_pairing_key_is_tried_in_both_members_before_giving_up() -> None:
    """The saved secret key, then the pairing key in each member, once each; then the advice."""
    tried: list[dict[str, str]] = []
    waiting: list[str] = []

    async def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            text = (await request.aread()).decode()
            if '"cs1"' in text:
                tried.append(json.loads(text[text.index("[") :])[1])
                waiting.append('42/register,["sc2","{\\"error\\":\\"The key introduced is invalid\\"}"]')
            return httpx.Response(200, text="OK")
        is_open = "sid" not in request.url.params
        return httpx.Response(200, text='0{"sid":"s"}' if is_open else waiting.pop() if waiting else "6")

    web = _web(handler)
    settings = _settings(root_dialect="r1", cluster_pairing_key="pair")
    with pytest.raises(RootRefusedError, match="set the CLUSTER_PAIRING_KEY that it shows"):
        await handshake(web, settings, "saved")
    await web.close()
    keys = [(message["pairing_key"], message["secret_key"]) for message in tried]
    assert keys == [("pair", "saved"), ("pair", ""), ("", "pair")]


def test_recorded_grpc_messages_are_ours() -> None:
    """Greeting and final are, byte for byte, those of the ecosystem's own manager; its answers are read."""
    greeting, final = load("R3/01-handle_init_greeting"), load("R3/02-handle_init_final")
    assert registration.cs1_of(_settings()).SerializeToString().hex() == greeting["raw"]
    assert registration.cs2_of(_settings()).SerializeToString().hex() == final["raw"]
    assert CS1Message.FromString(bytes.fromhex(greeting["raw"])).hello_service_manager
    answer = bytes.fromhex(load("R3/01-handle_init_greeting-reply")["raw"])
    assert SC1Message.FromString(answer).hello_cluster_manager == "please send your cluster info"
    answer = bytes.fromhex(load("R3/02-handle_init_final-reply")["raw"])
    assert SC2Message.FromString(answer).id == "6b03249dd8ac74488c0dbc47"


def test_no_setting_leads_into_a_trap_of_the_root() -> None:
    """Without location and plug-in the members that the root needs are there all the same."""
    message = registration.cs2_of(RootSettings(system_manager_url="root"))
    assert len(message.cluster_info) == 1
    assert message.cluster_location
    assert message.manager_port
    assert message.network_component_port
    assert message.cluster_name
