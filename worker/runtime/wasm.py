"""WASI command modules, each in a process of its own (`wasm_runner`), so that the worker never loads an engine."""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path
from typing import Final

import orjson

from worker.records import Exit, Ref
from worker.runtime import cgroups
from worker.runtime.base import Progress, RuntimeFailure, Workload
from worker.runtime.images import ImageCache
from worker.runtime.runs import ProcessRuntime

EXAMPLES: Final = Path(__file__).with_name("examples")
_BUILTIN: Final = "builtin:"
_REPOSITORY: Final = Path(__file__).resolve().parents[2]


class WasmRuntime(ProcessRuntime):
    """Modules as .wasm or .wat: a path, file://, http(s):// or `builtin:hello`, `builtin:hello-once`."""

    technology = "wasm"

    def __init__(self, folder: Path, images: ImageCache) -> None:
        super().__init__(folder)
        self._images = images

    async def unavailable(self) -> str:
        """Look for wasmtime without loading it."""
        if importlib.util.find_spec("wasmtime") is None:
            return "wasmtime is not installed; `pip install 'cluster-orchestrator[wasm]'` would enable wasm"
        return ""

    async def prepare(self, workload: Workload, progress: Progress) -> None:
        """Download the module unless it is there."""
        if not workload.spec.image.startswith(_BUILTIN):
            await self._images.fetch(workload.spec.image, progress)
        elif not self._module(workload.spec.image).is_file():
            known = ", ".join(sorted(_BUILTIN + file.stem for file in EXAMPLES.glob("*.wat")))
            raise RuntimeFailure(f"no bundled module {workload.spec.image}; there are {known}", is_final=True)

    async def start(self, workload: Workload) -> None:
        """Start a runner with the module."""
        spec, run = workload.spec, self._run(workload.ref)
        run.clear()
        groups = cgroups.limit_cpu(str(workload.ref), spec.demand.cpu_millicores) if spec.demand.cpu_millicores else ()
        order = {
            "module": str(self._module(spec.image)),
            "name": spec.name,
            "arguments": spec.command,
            "environment": [pair.partition("=")[::2] for pair in spec.environment],
            "memory_bytes": spec.demand.memory_bytes,
            "cpu_millicores": None if groups else spec.demand.cpu_millicores,
        }
        (run.folder / "order.json").write_bytes(orjson.dumps(order))
        argv = [sys.executable, "-m", "worker.runtime.wasm_runner", "order.json"]
        await run.start(argv, {"PYTHONPATH": str(_REPOSITORY), "PYTHONUNBUFFERED": "1"}, groups)

    async def is_running(self, ref: Ref) -> bool:
        """Whether the runner lives."""
        await self._run(ref).settle()
        return self._run(ref).process is not None

    async def wait(self, ref: Ref) -> Exit:
        """The module's exit status is the runner's."""
        return await self._run(ref).wait()

    async def stop(self, ref: Ref) -> None:
        """SIGTERM: a module has no signal handlers, so that it ends at once."""
        self._run(ref).signal(signal.SIGTERM)

    async def execute(self, ref: Ref, command: tuple[str, ...], timeout_s: float) -> tuple[int, str]:
        """There is no shell in a module."""
        raise RuntimeFailure("wasm modules have no commands to run; use an http or tcp probe", is_final=True)

    async def close(self) -> None:
        """Nothing is held."""

    def _module(self, image: str) -> Path:
        if image.startswith(_BUILTIN):
            return EXAMPLES / (Path(image.removeprefix(_BUILTIN)).name + ".wat")
        return self._images.path(image)
