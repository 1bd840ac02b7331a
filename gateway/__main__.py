"""`python -m gateway`: settings, one uvicorn worker, a drain on SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn
from pydantic import ValidationError

from cluster.process import LOG, configure_logging, graceful, run, version, warn_if_exposed
from gateway.app import create_app
from gateway.protocol import ProblemProtocol
from gateway.settings import Settings, settings_help

_BACKLOG = 2048
_KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """uvicorn under this process's own signal handling."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `cluster.process`."""
        yield


async def serve(server: Server, listener: socket.socket) -> None:
    """Serve until cancelled, then refuse new connections and let running requests end."""
    try:
        await server.serve([listener])
    except asyncio.CancelledError:
        await server.shutdown([listener])
        raise


def listen(address: str, port: int) -> socket.socket:
    """A bound listener. Raises OSError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener


async def main(settings: Settings, listener: socket.socket) -> None:
    """Serve until a signal."""
    config = uvicorn.Config(
        create_app(settings),
        http=ProblemProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.drain_s),
    )
    host, port = listener.getsockname()[:2]
    warn_if_exposed(settings.bind, ["HTTP"])
    async with graceful() as tasks:
        tasks.create_task(serve(Server(config), listener), name="http")
        LOG.info("listening", address=f"{host}:{port}", manager=settings.manager_address)


def parse_arguments(arguments: Sequence[str]) -> Settings:
    """Settings from the environment, overridden by the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="The cluster's HTTP API: translates it into calls to manager and scheduler.",
        epilog="environment, or .env in the working directory:\n" + settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bind", metavar="ADDRESS", help="listen here; anything but loopback admits all peers")
    parser.add_argument("--port", metavar="PORT", type=int, dest="gateway_port", help="listen on this port")
    parser.add_argument("--version", action="version", version=version())
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parser.error(f"{'.'.join(map(str, first['loc'])).upper()}: {first['msg']}, not {first['input']!r}")


def start() -> None:
    """The entry point."""
    settings = parse_arguments(sys.argv[1:])
    configure_logging("gateway", settings.log_level)
    try:
        listener = listen(settings.bind, settings.gateway_port)
    except OSError as error:
        LOG.error("cannot listen", address=f"{settings.bind}:{settings.gateway_port}", error=str(error))
        sys.exit(1)
    run(lambda: main(settings, listener))


if __name__ == "__main__":
    start()
