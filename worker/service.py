"""The worker as a process: its settings, its parts, and its orderly end."""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from cluster.process import LOG, configure_logging, graceful, run, warn_if_exposed
from worker.agent import Agent
from worker.local_api import listen
from worker.routes import Routes
from worker.runtime.base import Runtime
from worker.runtime.docker import DockerRuntime
from worker.runtime.images import ImageCache
from worker.runtime.unikernel import UnikernelRuntime
from worker.runtime.wasm import WasmRuntime
from worker.settings import WorkerSettings
from worker.state import State


def run_worker(arguments: Sequence[str]) -> int:
    """Read the settings, then serve; answers the exit status."""
    _parser().parse_args(arguments)
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            print(f"{str(wrong['loc'][0]).upper()}: {wrong['msg']}", file=sys.stderr)
        return 2
    configure_logging("worker", settings.log_level)
    warn_if_exposed(settings.bind, ["logs of workloads", "adoption"])
    try:
        run(lambda: _serve(settings), use_uvloop=False)
    except (OSError, sqlite3.Error) as error:
        LOG.error("cannot start", why=str(error))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    fields = WorkerSettings.model_fields.items()
    lines = [f"  {name.upper():32}{field.description or ''}" for name, field in fields]
    return argparse.ArgumentParser(
        prog="python -m worker",
        description="Runs jobs on this machine for a cluster. It is configured by the environment or `.env`:",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


async def _serve(settings: WorkerSettings) -> None:
    state = State(settings.worker_data_dir)
    runtimes = make_runtimes(settings, state.meta("installation"))
    agent = Agent(settings, state, runtimes)
    try:
        async with graceful() as tasks:
            server = await listen(settings.bind, settings.worker_port, Routes(agent, runtimes).handle)
            agent.registrar.port = server.sockets[0].getsockname()[1]
            LOG.info("worker serving", address=f"{settings.bind}:{agent.registrar.port}", name=settings.worker_name)
            agent.begin(tasks)
        server.close()
    finally:
        await agent.close(stop_workloads=settings.worker_stop_workloads_on_exit)
        state.close()


def make_runtimes(settings: WorkerSettings, installation: str) -> dict[str, Runtime]:
    """The adapters of the technologies that may be announced."""
    folder = settings.worker_data_dir.resolve()
    images = ImageCache(folder / "images")
    runtimes: tuple[Runtime, ...] = (
        DockerRuntime(settings.docker_host, installation),
        UnikernelRuntime(folder / "unikernel", images, settings.qemu_binary),
        WasmRuntime(folder / "wasm", images),
    )
    return {runtime.technology: runtime for runtime in runtimes if runtime.technology in settings.technologies}
