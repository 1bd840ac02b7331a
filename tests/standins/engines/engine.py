"""A worker engine as a thread: registers over HTTP, speaks MQTT, runs pretended containers and crashes as it should.

What differs between the generations stands in `generations.py`. Times are the real ones by default and can be scaled.
"""

import http.client
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from standins.engines.agenda import Agenda
from standins.engines.containerd import Containerd
from standins.engines.service import DroppedError, Service, parse_service
from testbed.processes import REPOSITORY

HOST = "127.0.0.1"
LONGEST_PAUSE_S = 600  # the pauses double from one second


class CrashedError(Exception):
    """The engine process ended with a panic."""


@dataclass(frozen=True)
class Timing:
    """Seconds. `pull_s` maps an image to how long pulling it takes, `delete_s` is how long a slow delete blocks."""

    period_s: float = 2.0
    start_s: float = 0.08
    delete_s: float = 5.0
    pull_s: dict[str, float] = field(default_factory=dict)

    def scaled(self, factor: float) -> "Timing":
        """All times multiplied."""
        pulls = {image: pull_s * factor for image, pull_s in self.pull_s.items()}
        return Timing(self.period_s * factor, self.start_s * factor, self.delete_s * factor, pulls)


@dataclass(frozen=True)
class Said:
    """A state that it published."""

    name: str
    status: str
    detail: str


class Engine:
    """One engine on one machine; `crashes` says why each of its processes panicked, `dropped` what it did not parse."""

    generation = ""
    fields: ClassVar[dict[str, str]] = {}
    started = ""
    already = ""
    max_name = 76

    def __init__(self, gateway_port: int, host: str, *, timing: Timing | None = None, **facts: Any) -> None:
        self.host = host
        self.timing = timing or Timing()
        self.facts = facts
        self.containerd = Containerd()
        self.random = random.Random(host)
        self.id = ""
        self.registrations = 0
        self.crashes: list[str] = []
        self.dropped: list[str] = []
        self.heard: list[tuple[str, bytes]] = []
        self.said: list[Said] = []
        self.is_up = False
        self.is_mute = False
        self._gateway_port = gateway_port
        self._backlog: list[tuple[str, bytes]] = []
        self._agenda: Agenda | None = None
        self._client: mqtt.Client | None = None
        self._is_connected = False
        self.starting: dict[str, Service] = {}
        self.known: dict[str, Service] = {}

    @classmethod
    def folder(cls) -> Path:
        """Where the recordings of its generation are."""
        return REPOSITORY / "tests" / "vectors" / "engines" / cls.generation

    # To be said by a generation

    def registration(self) -> dict[str, Any]:
        """The body of the registration."""
        raise NotImplementedError

    def information(self) -> dict[str, Any]:
        """Telemetry."""
        raise NotImplementedError

    def lists(self) -> list[list[dict[str, Any]]]:
        """What each runtime lists."""
        raise NotImplementedError

    def delete(self, service: Service) -> None:
        """Carry out a delete of a service that runs."""
        raise NotImplementedError

    def on_exit(self, service: Service, code: int) -> None:
        """Tell that a container ended by itself."""
        raise NotImplementedError

    # Life of the process

    def start(self) -> "Engine":
        """Remove all containers, register once, connect. Raises CrashedError where the real one would exit."""
        self.reset()
        port = self._register()
        self._agenda = Agenda(f"engine {self.host}")
        self._client = self._connect(port)
        self.begin()
        return self

    def reset(self) -> None:
        """A fresh process removes all containers and knows nothing."""
        self.containerd.remove_all()
        self.starting, self.known, self._backlog = {}, {}, []

    def begin(self) -> None:
        """It is registered and connected: from now on it tells what it runs."""
        self.is_up = True
        self.later(self.timing.period_s, self._beat)

    def sigkill(self) -> None:
        """The process ends at once; its containers live on."""
        self.is_up = False
        if self._agenda:
            self._agenda.close()
        if self._client:
            self._client.disconnect()
            self._client.loop_stop()
        self._is_connected = False

    def sigterm(self) -> None:
        """Every container is stopped and told DEAD, then the process ends."""
        for service in list(self.known.values()):
            self.say(service, "DEAD", self.stopped_detail)
            self.containerd.remove(service.container)
        self._flush()
        self.sigkill()

    stopped_detail = ""

    def crash(self, reason: str) -> None:
        """A panic."""
        self.crashes.append(reason)
        self.sigkill()

    def later(self, pause_s: float, function: Callable[[], None]) -> None:
        """Do something on the engine's thread, unless its process has ended by then."""
        if self._agenda:
            self._agenda.after(pause_s, function)

    def break_connection(self) -> None:
        """The network fails once: paho connects anew and the engine resends what it stored, in any order."""
        if self._client and (socket := self._client.socket()):
            self._is_connected = False
            socket.shutdown(2)  # type: ignore[attr-defined]

    def restart_containerd(self) -> None:
        """DEAD is told of each container, and yet they stay listed for ever."""
        for service in list(self.known.values()):
            self.say(service, "DEAD", self.lost_detail)
            self.containerd.containers[service.container].is_forgotten = True
        self.known.clear()

    lost_detail = ""

    # Registration

    def _register(self) -> int:
        body = json.dumps({**self.registration(), **self.facts})
        connection = http.client.HTTPConnection(HOST, self._gateway_port, timeout=30.0)
        try:
            connection.request("POST", "/api/node/register", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise CrashedError(f"registration answered {response.status}: {text!r}")
        answer = json.loads(text)
        if not answer or not all(isinstance(answer.get(key, ""), str) for key in ("id", "MQTT_BROKER_PORT")):
            raise CrashedError(f"cannot unmarshal {text!r}")
        self.id = answer.get("id", "")
        self.registrations += 1
        return int(answer["MQTT_BROKER_PORT"])

    # MQTT

    def _connect(self, port: int) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"{self.id}-ne", clean_session=True)
        client.reconnect_delay_set(1, LONGEST_PAUSE_S)
        client.max_inflight_messages_set(1000)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.connect(HOST, port, keepalive=30)
        client.loop_start()
        return client

    def _on_connect(self, client: mqtt.Client, *_facts: Any) -> None:
        """What was stored goes out first, in random order and without times; then it subscribes."""
        self._is_connected = True
        self._flush()
        client.subscribe([(f"nodes/{self.id}/control/{verb}", 1) for verb in ("deploy", "delete")])

    def _flush(self) -> None:
        backlog, self._backlog = self._backlog, []
        self.random.shuffle(backlog)
        for topic, payload in backlog:
            self._publish(topic, payload)

    def _on_disconnect(self, *_facts: Any) -> None:
        self._is_connected = False

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        verb, payload = message.topic.rpartition("/")[2], bytes(message.payload)
        self.heard.append((verb, payload))
        self.later(0.0, lambda: self.on_command(verb, payload))

    def _publish(self, topic: str, payload: bytes) -> None:
        if self._client and self._is_connected:
            self._client.publish(topic, payload, qos=1)
        else:
            self._backlog.append((topic, payload))

    def publish(self, channel: str, body: object) -> None:
        """Send JSON on one of its topics, or store it until there is a connection."""
        if not self.is_mute:
            self._publish(f"nodes/{self.id}/{channel}", json.dumps(body).encode())

    def say(self, service: Service, status: str, detail: str = "") -> None:
        """Publish a state."""
        self.said.append(Said(service.container, status, detail))
        body = {"sname": service.name, "status": status, "status_detail": detail, "instance": service.number}
        self.publish("job", {**body, "publicip": "192.0.2.2"})

    def _beat(self) -> None:
        self.publish("information", self.information())
        for services in self.lists():
            self.publish("jobs/resources", {"services": services})
        self.later(self.timing.period_s, self._beat)

    # Commands

    @property
    def runtimes(self) -> list[str]:
        """What it announced."""
        return list(self.facts.get("technology") or self.facts.get("virtualization") or ["docker"])

    def on_command(self, verb: str, payload: bytes) -> None:
        """Parse and obey, on the engine's thread."""
        try:
            service = parse_service(payload, self.fields)
        except DroppedError as error:
            self.dropped.append(f"{verb}: {error}")
            return
        if service.runtime not in self.runtimes:
            self.crash(f"{verb} with virtualization {service.runtime!r}: {payload!r}")
        elif verb == "deploy":
            self._deploy(service)
        elif (known := self.known.get(service.container)) and known.runtime == service.runtime:
            self.delete(known)

    def _deploy(self, service: Service) -> None:
        name = service.container
        if service.runtime == "unikernel" and "missing" in service.image:
            self.crash(f"unikernel image {service.image} answers 404")
        elif name in self.known or name in self.starting:
            pause_s = self.timing.pull_s.get(service.image, 0.0) if name in self.starting else 0.0
            detail = "service already deployed" if service.runtime == "unikernel" else self.already
            self.later(pause_s, lambda: self.say(service, "FAILED", detail))
        elif name in self.containerd.containers:
            self.say(service, "FAILED", f'snapshot "{name}-snapshotter": already exists')
        elif problem := self.start_problem(service):
            self.say(service, "FAILED", problem)
        else:
            self.starting[name] = service
            self.on_accepted(service)
            pause_s = self.timing.start_s + self.timing.pull_s.get(service.image, 0.0)
            self.later(pause_s, lambda: self._started(service))

    def on_accepted(self, service: Service) -> None:
        """Before the pull; only the newest generation says something."""

    def start_problem(self, service: Service) -> str:
        """Why the container cannot start; "" where it can."""
        name = service.container
        if len(name) > 76:
            return f'identifier "{name}" greater than maximum length (76 characters): invalid argument'
        if any(pair in name for pair in ("..", "--", "__", "._", "_.", "-.", ".-", "-_", "_-")):
            return f'identifier "{name}" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument'
        if len(name) > self.max_name:
            return "error during container init: sethostname: invalid argument: unknown"
        if not service.command and "noentry" in service.image:
            return "runc create failed: args must not be empty: unknown"
        if "nosuch" in service.image:
            return f'failed to resolve reference "{service.image}": not found'
        return ""

    def _started(self, service: Service) -> None:
        name = service.container
        self.starting.pop(name, None)
        self.containerd.start(service)
        self.known[name] = service
        ends_at_once = service.command[:1] == ["exit"] and len(service.command) < 3
        if ends_at_once and self.says_dead_first:
            self._exited(service)
            self.say(service, self.started)
            return
        self.say(service, self.started)
        if service.command[:1] == ["exit"]:
            pause_s = float(service.command[2]) if len(service.command) > 2 else 0.0
            self.later(pause_s, lambda: self._exited(service))

    says_dead_first = False

    def _exited(self, service: Service) -> None:
        self.end(service, int(service.command[1]))

    def end(self, service: Service, code: int) -> None:
        """A container ends by itself."""
        if self.known.get(service.container) is service:
            del self.known[service.container]
            self.containerd.remove(service.container)
            self.on_exit(service, code)
