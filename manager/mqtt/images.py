"""Whether the image of a unikernel can be fetched: an engine unpacks whatever a server answers, and panics on a 404."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import httpx

from cluster.jobs import JobSpec

TIMEOUT_S: Final = 5.0
KEPT_S: Final = 60.0
MAX_KEPT: Final = 1000


class Images:
    """Asks each URL once a minute at most; a server that only the node can reach is the node's business."""

    def __init__(self) -> None:
        self._wanted: asyncio.Queue[str] = asyncio.Queue()
        self._asking: set[str] = set()
        self._verdicts: dict[str, tuple[float, str]] = {}

    def problem(self, spec: JobSpec) -> str | None:
        """Why an engine must not be given this; "" where it may be; None while the servers are asked."""
        verdicts = [self._verdict(url) for url in urls_of(spec)]
        if None in verdicts:
            return None
        return next((verdict for verdict in verdicts if verdict), "")

    async def run(self) -> None:
        """Ask until cancelled."""
        async with httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=True, trust_env=False) as client:
            while True:
                url = await self._wanted.get()
                if len(self._verdicts) >= MAX_KEPT:
                    self._verdicts.clear()
                self._verdicts[url] = (time.monotonic(), await _ask(client, url))
                self._asking.discard(url)

    def _verdict(self, url: str) -> str | None:
        at_s, verdict = self._verdicts.get(url, (-KEPT_S, ""))
        if time.monotonic() - at_s < KEPT_S:
            return verdict
        if url not in self._asking:
            self._asking.add(url)
            self._wanted.put_nowait(url)
        return None


def urls_of(spec: JobSpec) -> list[str]:
    """The URLs that an engine would fetch for a unikernel; none for other technologies."""
    if spec.technology != "unikernel":
        return []
    texts = [part.strip() for text in (spec.image, *spec.vm_images) for part in text.split(",")]
    return [text for text in texts if text.startswith(("http://", "https://"))]


async def _ask(client: httpx.AsyncClient, url: str) -> str:
    try:
        async with client.stream("GET", url) as response:
            return f"{url} answers {response.status_code}" if response.is_error else ""
    except (httpx.HTTPError, httpx.InvalidURL):
        return ""
