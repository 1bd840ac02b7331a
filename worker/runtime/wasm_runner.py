"""`python -m worker.runtime.wasm_runner ORDER.json`: run one WASI command module; its exit status is the process's.

The order: `{module, name, arguments, environment: [[name, value]], memory_bytes, cpu_millicores}`. A module that traps
ends with 134, as an aborted process does, and the words of the trap go to the file `reason` beside the order.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from worker.runtime.throttle import throttle_this_process

TRAPPED: Final = 134
NOT_A_MODULE: Final = 126


def run(order: dict[str, Any]) -> int:
    """Run the module to its end; answers the exit status."""
    import wasmtime

    engine = wasmtime.Engine()
    try:
        module = wasmtime.Module.from_file(engine, order["module"])
    except wasmtime.WasmtimeError as error:
        return _failed(NOT_A_MODULE, f"not a module: {error}")
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store = wasmtime.Store(engine)
    store.set_wasi(_wasi(order))
    if order["memory_bytes"]:
        store.set_limits(memory_size=order["memory_bytes"])
    try:
        start = linker.instantiate(store, module).exports(store)["_start"]
        assert isinstance(start, wasmtime.Func)
        start(store)
    except wasmtime.ExitTrap as end:
        return int(end.code)
    except KeyError:
        return _failed(NOT_A_MODULE, "the module has no _start: only WASI commands can be run")
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        return _failed(TRAPPED, f"the module trapped: {error}")
    return 0


def _wasi(order: dict[str, Any]) -> Any:
    import wasmtime

    wasi = wasmtime.WasiConfig()
    wasi.argv = [order["name"], *order["arguments"]]
    wasi.env = [tuple(pair) for pair in order["environment"]]
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    return wasi


def _failed(status: int, words: str) -> int:
    with contextlib.suppress(OSError):  # on a full disk the status alone tells the end
        print(words, file=sys.stderr, flush=True)
        Path("reason").write_text(" ".join(words.split())[:500])
    return status


def main() -> None:
    """Read the order, take on the cpu limit, run."""
    order = json.loads(Path(sys.argv[1]).read_text())
    if order["cpu_millicores"]:
        throttle_this_process(order["cpu_millicores"])
    sys.exit(run(order))


if __name__ == "__main__":
    main()
