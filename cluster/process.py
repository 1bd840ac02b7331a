"""Process plumbing, once for all: structured logs, settings, signals and the one TaskGroup of a process."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import ipaddress
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from typing import Any, Final

from pydantic_settings import BaseSettings, SettingsConfigDict

from cluster import log_stream
from cluster.imports import without

with without("rich"):  # for coloured tracebacks: 60 ms and 3 MB in each process
    import structlog

LOG: structlog.stdlib.BoundLogger = structlog.get_logger()
LOSSES_TOLD_S: Final = 5.0
LONG_COLLECTION_S: Final = 0.02
_FULL: Final = 2  # the oldest generation


class ProcessSettings(BaseSettings):
    """Base of every process's settings: environment first, then `.env` in the working directory; frozen."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    log_level: str = "info"


def version() -> str:
    """The version of the installed distribution."""
    return metadata.version("cluster-orchestrator")


def configure_logging(process: str, level: str) -> None:
    """Log to stderr: JSON lines, or coloured text on a terminal. The event is a fixed phrase, the facts are keys.

    From here on nothing that is printed or logged raises, by whichever way it comes: what cannot be written is counted.
    """
    stream = log_stream.install()
    renderer = structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer()
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _never_raising(renderer),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    stream.notice = lambda count: _line(processors, process, count)
    logging.basicConfig(level=logging.WARNING, stream=stream, format="%(levelname)s %(name)s %(message)s")


def _never_raising(render: structlog.typing.Processor) -> structlog.typing.Processor:
    """What cannot be shown costs its line at most, not its caller."""

    def rendered(logger: object, name: str, event: structlog.typing.EventDict) -> str:
        words = event.get("event")
        try:
            return str(render(logger, name, event))
        except Exception as error:  # noqa: BLE001 - whatever the __repr__ or __str__ of a fact raises
            return f"{words!r}: its facts cannot be shown ({type(error).__name__})"

    return rendered


def _line(processors: Iterable[structlog.typing.Processor], process: str, count: int) -> str:
    event: Any = {"event": "log lines were lost", "count": count, "process": process}
    for processor in processors:
        event = processor(None, "warning", event)
    return str(event)


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
            tasks.create_task(_tell_losses(), name="log losses")
            give_back_memory()
            gc.callbacks.append(_CollectionWatch())
            yield tasks
    except* StopSignal as group:
        LOG.info("stopped", signal=str(group.exceptions[0]))


async def _tell_losses() -> None:
    """Who freed the disk need not wait for the next thing that is worth a line."""
    while True:
        await asyncio.sleep(LOSSES_TOLD_S)
        if isinstance(sys.stderr, log_stream.LogStream):
            sys.stderr.tell_losses()


def give_back_memory() -> None:
    """What was made so far stays and is never searched for garbage again; what making it needed goes back.

    The second collection finds nothing: else the next full one would come only after a quarter as much again was made,
    and would take as long as that takes.
    """
    gc.collect()
    gc.freeze()
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        LOG.debug("the C library has no malloc_trim")


class _CollectionWatch:
    """Sets aside for good what a long full collection found in use, so that the next one does not look at it again.

    Else a process that holds a million records would stand still for half a second each time. What is set aside goes
    when nothing refers to it any more, as ever; only circles among such objects would stay.
    """

    def __init__(self) -> None:
        self._began_s = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """As `gc.callbacks` are called."""
        if phase == "start":
            self._began_s = time.perf_counter()
        elif info["generation"] == _FULL and time.perf_counter() - self._began_s > LONG_COLLECTION_S:
            gc.freeze()


@contextmanager
def without_collections() -> Iterator[None]:
    """While many objects are made that stay: looking for garbage among them costs more than making them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
