"""The root's HTTP API, as far as a cluster needs it: its list of clusters, and reports."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from manager.root.answers import Answer, away, check_report
from manager.root.errors import RootAwayError

if TYPE_CHECKING:
    import httpx

CONNECT_S: Final = 5.0
REPORT_S: Final = 45.0  # within a report the root may call us once per job that it does not know, for 10 s each
MAX_LIST_BYTES: Final = 32 * 1024 * 1024  # a root of 2026 tells 12 KB of each cluster
MAX_ANSWER_BYTES: Final = 256 * 1024
CLUSTERS: Final = "/api/clusters/"


class RootWeb:
    """A client of one root; `answer_s` bounds every answer, from first to last byte, but that to a report."""

    def __init__(self, base_url: str, answer_s: float) -> None:
        self.base_url = base_url
        self._answer_s = answer_s
        self._client: httpx.AsyncClient | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """The HTTP client, made when it is first needed: a stand-alone manager pays nothing for it.

        It keeps no connection open: one that the root closes just as it is used again looks like a root that is away.
        """
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                base_url=self.base_url,
                timeout=httpx.Timeout(None, connect=min(CONNECT_S, self._answer_s)),
                limits=httpx.Limits(max_keepalive_connections=0),
                headers={"Accept-Encoding": "identity"},  # a few packed bytes may hold a gigabyte
                trust_env=False,
            )
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def clusters(self) -> list[dict[str, Any]]:
        """What the root lists at /api/clusters/, which needs no login. Raises RootAwayError."""
        answer = await self.ask("GET", CLUSTERS, most_bytes=MAX_LIST_BYTES)
        if answer.status != 200:
            raise away(answer, f"GET {CLUSTERS}")
        try:
            clusters = orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            clusters = None
        if not isinstance(clusters, list):
            raise RootAwayError(f"{self.base_url} answered no list of clusters to GET {CLUSTERS}: {answer.shown}")
        return [item for item in clusters if isinstance(item, dict)]

    async def report(self, cluster_id: str, body: dict[str, Any]) -> None:
        """Send a report. Raises RootAwayError where it got no answer, ReportRefusedError where it was not taken."""
        answer = await self.ask(
            "POST",
            f"/api/information/{quote(cluster_id, safe='')}",
            answer_s=REPORT_S,
            content=orjson.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        check_report(answer)

    async def ask(
        self, method: str, path: str, *, answer_s: float = 0.0, most_bytes: int = MAX_ANSWER_BYTES, **options: Any
    ) -> Answer:
        """One request. Raises RootAwayError where no whole answer of a sensible size came in time."""
        import httpx

        limit_s = answer_s or self._answer_s
        try:
            async with asyncio.timeout(limit_s), self.client.stream(method, path, **options) as response:
                content = await self._read(response, most_bytes)
                return Answer(status=response.status_code, content=content, headers=dict(response.headers))
        except TimeoutError:
            raise RootAwayError(f"{self.base_url} does not answer: nothing whole within {limit_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RootAwayError(f"{self.base_url} does not answer: {_words(error)}") from None

    async def _read(self, response: httpx.Response, most_bytes: int) -> bytes:
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise RootAwayError(f"{self.base_url} packs its answers, though it was asked for plain ones")
        content = bytearray()
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > most_bytes:
                raise RootAwayError(f"{self.base_url} answers more than {most_bytes} bytes: that is no root")
        return bytes(content)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def cluster_id_of(entry: dict[str, Any]) -> str:
    """The id of an entry of the list: a string (R3) or `{"$oid": …}` (before)."""
    value = entry.get("_id")
    if isinstance(value, dict):
        value = value.get("$oid")
    return value if isinstance(value, str) else ""


def find_cluster(entries: Iterable[dict[str, Any]], cluster_id: str, name: str) -> dict[str, Any] | None:
    """The entry of this cluster: of this id, and under this name, for reports under an unknown id leave ghosts."""
    for entry in entries:
        if cluster_id and cluster_id_of(entry) == cluster_id and name in _names(entry):
            return entry
    return None


def known_location(entries: Iterable[dict[str, Any]], cluster_id: str, name: str, user_name: str) -> str:
    """Where the root has this cluster: under the id that it gave, else where it was added at the dashboard; "" unknown.

    A registration finds an entry by its name, in R1 by its user as well, and writes its location anew.
    """
    mine = [entry for entry in entries if name in _names(entry) and entry.get("user_name", user_name) == user_name]
    entry = find_cluster(mine, cluster_id, name) or next(iter(mine), {})
    places = (entry.get("candidate_location"), entry.get("cluster_location"))
    return next((place for place in places if isinstance(place, str) and place.strip()), "")


def _names(entry: dict[str, Any]) -> tuple[Any, Any]:
    return entry.get("cluster_name"), entry.get("candidate_name")


def is_r3(entry: dict[str, Any]) -> bool:
    """Whether an entry is written as only R3 writes it."""
    return "candidate_name" in entry
