"""Small WASI modules for tests, as WAT text."""

from pathlib import Path

_IMPORTS = """
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 1)
"""
EXIT_3 = f'(module {_IMPORTS} (func (export "_start") (call $exit (i32.const 3))))'
EXIT_WITH_ARGUMENT_COUNT = f"""(module {_IMPORTS} (func (export "_start")
  (drop (call $args (i32.const 0) (i32.const 4))) (call $exit (i32.load (i32.const 0)))))"""
TRAP = f'(module {_IMPORTS} (func (export "_start") unreachable))'
SPIN = f'(module {_IMPORTS} (func (export "_start") (loop $again (br $again))))'
GROW = f"""(module {_IMPORTS} (func (export "_start")
  (call $exit (i32.eq (memory.grow (i32.const 1600)) (i32.const -1)))))"""


def write(folder: Path, text: str) -> str:
    """Write a module; its path, as a job's image."""
    path = folder / "module.wat"
    path.write_text(text)
    return str(path)
