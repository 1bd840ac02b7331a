"""One thread that reads the engine's events and wakes whoever waits for a container's end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import structlog

from worker.runtime.docker_options import LABEL_REF

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
RECONNECT_S: Final = 1.0
_NO_TIMEOUT_S: Final = 366 * 24 * 3600


class ExitWatch:
    """Wakes on `die` and `destroy` events, and everybody whenever the stream of events began anew."""

    def __init__(self, host: str, label: str, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._label = label
        self._loop = loop
        self._waiting: dict[str, list[asyncio.Event]] = {}
        self._is_closed = threading.Event()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._read, name="docker-events", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def expecting(self, ref: str) -> Iterator[asyncio.Event]:
        """An event that is set when the container may have ended; look at it after entering."""
        woken = asyncio.Event()
        self._waiting.setdefault(ref, []).append(woken)
        try:
            yield woken
        finally:
            self._waiting[ref].remove(woken)
            if not self._waiting[ref]:
                del self._waiting[ref]

    def close(self) -> None:
        """End the thread."""
        self._is_closed.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        self._thread.join(timeout=2.0)

    def _wake(self, ref: str | None) -> None:
        for key, events in self._waiting.items():
            if ref is None or key == ref:
                for event in events:
                    event.set()

    def _tell(self, ref: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._wake, ref)

    def _read(self) -> None:
        import docker
        import requests
        import urllib3

        errors = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError)
        is_away = False
        while not self._is_closed.is_set():
            try:
                with contextlib.closing(docker.DockerClient(base_url=self._host, timeout=_NO_TIMEOUT_S)) as client:
                    self._stream = client.events(
                        decode=True, filters={"type": "container", "event": ["die", "destroy"], "label": self._label}
                    )
                    if is_away:
                        LOG.info("the container engine is back", host=self._host)
                    is_away = False
                    self._tell(None)
                    for event in self._stream:
                        self._tell(event["Actor"]["Attributes"].get(LABEL_REF))
            except (*errors, ValueError, AttributeError) as error:
                if not is_away and not self._is_closed.is_set():
                    LOG.warning("the container engine's events broke off", host=self._host, why=str(error))
                is_away = True
            self._is_closed.wait(RECONNECT_S)
