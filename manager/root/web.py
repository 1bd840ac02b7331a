"""The root's HTTP API, as far as a cluster needs it: its list of clusters, and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from manager.root.errors import ReportRefusedError, RootAwayError

if TYPE_CHECKING:
    import httpx

CONNECT_S: Final = 5.0
REPORT_S: Final = 45.0  # within a report the root may call us once per job that it does not know, for 10 s each
MAX_SHOWN: Final = 200


class RootWeb:
    """A client of one root; `answer_s` bounds every answer but that to a report."""

    def __init__(self, base_url: str, answer_s: float) -> None:
        self.base_url = base_url
        self._answer_s = answer_s
        self._client: httpx.AsyncClient | None = None

    @property
    def client(self) -> httpx.AsyncClient:
        """The HTTP client, made when it is first needed: a stand-alone manager pays nothing for it."""
        if self._client is None:
            import httpx

            timeout = httpx.Timeout(self._answer_s, connect=min(CONNECT_S, self._answer_s))
            self._client = httpx.AsyncClient(base_url=self.base_url, timeout=timeout, trust_env=False)
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def clusters(self) -> list[dict[str, Any]]:
        """What the root lists at /api/clusters/, which needs no login. Raises RootAwayError."""
        response = await self.ask("GET", "/api/clusters/")
        try:
            clusters = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            clusters = None
        if response.status_code != 200 or not isinstance(clusters, list):
            raise RootAwayError(f"{self.base_url} answered {response.status_code} to GET /api/clusters/")
        return [item for item in clusters if isinstance(item, dict)]

    async def report(self, cluster_id: str, body: dict[str, Any]) -> None:
        """Send a report. Raises RootAwayError where no answer came, ReportRefusedError where it was not taken."""
        import httpx

        timeout = httpx.Timeout(REPORT_S, connect=min(CONNECT_S, self._answer_s))
        response = await self.ask(
            "POST",
            f"/api/information/{cluster_id}",
            content=orjson.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=timeout,
        )
        if response.status_code >= 300:
            shown = response.text[:MAX_SHOWN].strip()
            raise ReportRefusedError(f"the root answered {response.status_code} to a report: {shown}")

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request. Raises RootAwayError where no answer came."""
        import httpx

        try:
            return await self.client.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RootAwayError(f"{self.base_url} does not answer: {_words(error)}") from None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def cluster_id_of(entry: dict[str, Any]) -> str:
    """The id of an entry of the list: a string (R3) or `{"$oid": …}` (before)."""
    value = entry.get("_id")
    if isinstance(value, dict):
        value = value.get("$oid")
    return value if isinstance(value, str) else ""


def find_cluster(entries: list[dict[str, Any]], cluster_id: str, name: str) -> dict[str, Any] | None:
    """The entry of this cluster: of this id, and under this name, for reports under an unknown id leave ghosts."""
    for entry in entries:
        names = (entry.get("cluster_name"), entry.get("candidate_name"))
        if cluster_id and cluster_id_of(entry) == cluster_id and name in names:
            return entry
    return None


def is_r3(entry: dict[str, Any]) -> bool:
    """Whether an entry is written as only R3 writes it."""
    return "candidate_name" in entry
