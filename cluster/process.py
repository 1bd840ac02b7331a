"""Process plumbing, once for all: structured logs, settings, signals and the one TaskGroup of a process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import ipaddress
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from importlib import metadata

from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster.imports import without

with without("rich"):  # for coloured tracebacks: 60 ms and 3 MB in each process
    import structlog

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()


class ProcessSettings(BaseSettings):
    """Base of every process's settings: environment first, then `.env` in the working directory; frozen."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    log_level: str = "info"


def version() -> str:
    """The version of the installed distribution."""
    return metadata.version("cluster-orchestrator")


def configure_logging(process: str, level: str) -> None:
    """Log to stderr: JSON lines, or coloured text on a terminal. The event is a fixed phrase, the facts are keys."""
    on_terminal = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


class StopSignal(Exception):  # noqa: N818 - not an error: it carries a signal
    """A signal asked the process to end; it unwinds the TaskGroup of `__main__`."""


async def until_signalled() -> None:
    """Wait for SIGTERM or SIGINT, then raise StopSignal. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[str] = loop.create_future()

    def on_signal(name: str) -> None:
        if signalled.done():
            sys.exit(1)
        signalled.set_result(name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    raise StopSignal(await signalled)


@asynccontextmanager
async def graceful() -> AsyncIterator[asyncio.TaskGroup]:
    """The one TaskGroup of a process: it ends cleanly on a signal, and with the error of whichever task fails."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(until_signalled(), name="signals")
            give_back_memory()
            yield tasks
    except* StopSignal as group:
        LOG.info("stopped", signal=str(group.exceptions[0]))


def give_back_memory() -> None:
    """What was imported stays and is never searched for garbage again; what importing it needed goes back."""
    gc.collect()
    gc.freeze()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        LOG.debug("the C library has no malloc_trim")


def run(main: Callable[[], object], *, use_uvloop: bool = True) -> None:
    """Run an async main to its end, on uvloop where it is installed."""
    factory = _uvloop_factory() if use_uvloop else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())  # type: ignore[arg-type]


def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def warn_if_exposed(bind: str, what: Iterable[str]) -> None:
    """Say at each start that peers are admitted without authentication when not bound to loopback."""
    if bind != "localhost" and not ipaddress.ip_address(bind).is_loopback:
        LOG.warning("peers are admitted without authentication", bind=bind, what=list(what))
