"""The manager as a client of a worker's local HTTP: adoption and logs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from cluster.documents import parse_json
from cluster.errors import InvalidInputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    import httpx

TIMEOUT_S: Final = 5.0
PATH: Final = "/api/node/register"
_OF_COMMANDS: Final = ("id", "instance_number", "generation")  # a worker keeps the document as its command brought it


def host_port(address: str, port: int | None = None) -> str:
    """`IP:PORT` as it stands in a URL."""
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def fetch_registration(address: str) -> Any:
    """The registration that a waiting worker serves. Raises UnavailableError or InvalidInputError."""
    async with _client() as client:
        response = await _ask(client, "GET", f"http://{address}{PATH}")
    if response.status_code != 200:
        raise UnavailableError(f"the worker at {address} answered {response.status_code} to GET {PATH}")
    return parse_json(response.content)


async def answer_registration(address: str, answer: dict[str, str]) -> None:
    """Give a waiting worker what a registration is answered with. Raises UnavailableError."""
    async with _client() as client:
        response = await _ask(client, "POST", f"http://{address}{PATH}", json=answer)
    if response.status_code != 200:
        raise UnavailableError(f"the worker at {address} answered {response.status_code} to POST {PATH}")


async def fetch_job(address: str, job_id: str, number: int) -> tuple[Any, int | None]:
    """The job document of what a worker runs, and its generation.

    Raises UnavailableError, InvalidInputError, or NotFoundError, which is what older workers answer.
    """
    async with _client() as client:
        response = await _ask(client, "GET", f"http://{address}/api/instances/{job_id}/{number}")
    if response.status_code != 200:
        raise NotFoundError(f"the worker at {address} does not tell what {job_id}/{number} is", field="job_id")
    answer = parse_json(response.content)
    job = answer.get("job") if isinstance(answer, dict) else None
    if not isinstance(job, dict):
        raise InvalidInputError(f"the worker at {address} answered no job document")
    return {key: value for key, value in job.items() if key not in _OF_COMMANDS}, answer.get("generation")


async def stream_logs(
    address: str, job_id: str, number: int, *, is_following: bool, tail_lines: int
) -> AsyncIterator[bytes]:
    """The output of an instance as its worker keeps it. Raises UnavailableError or NotFoundError."""
    import httpx

    url = f"http://{address}/api/instances/{job_id}/{number}/logs"
    query = {"follow": str(is_following).lower(), "tail": str(tail_lines)}
    timeout = httpx.Timeout(TIMEOUT_S, read=None)
    try:
        async with _client() as client, client.stream("GET", url, params=query, timeout=timeout) as response:
            if response.status_code == 404:
                raise NotFoundError(f"the worker at {address} keeps no output of {job_id}/{number}", field="key")
            if response.status_code != 200:
                raise UnavailableError(f"the worker at {address} answered {response.status_code}")
            async for piece in response.aiter_raw():
                yield piece
    except httpx.HTTPError as error:
        raise UnavailableError(f"the worker at {address} does not answer: {_words(error)}") from None


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    """Httpx is loaded when it is first needed: most managers never ask a worker anything."""
    import httpx

    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        yield client


async def _ask(client: httpx.AsyncClient, method: str, url: str, **options: Any) -> httpx.Response:
    import httpx

    try:
        return await client.request(method, url, **options)
    except httpx.InvalidURL:
        raise InvalidInputError("write the address as IP:PORT", field="address") from None
    except httpx.HTTPError as error:
        raise UnavailableError(f"no worker answers at {url}: {_words(error)}") from None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
