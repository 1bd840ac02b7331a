"""Generate cluster/v1 from protos/cluster/v1; `--check` only compares and fails when they differ."""

import argparse
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ROOT / "protos"
PACKAGE = Path("cluster/v1")
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Write the Python modules and their stubs below `target`; raises RuntimeError when protoc refuses."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / PACKAGE).rglob("*.proto"))
    plugins = [f"--plugin=protoc-gen-{name}={_program('protoc-gen-' + name)}" for name in ("mypy", "mypy_grpc")]
    kinds = ("python_out=", "grpc_python_out=", "mypy_out=quiet:", "mypy_grpc_out=quiet:")
    outputs = [f"--{kind}{target}" for kind in kinds]
    includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
    if status := protoc.main(["protoc", *includes, *plugins, *outputs, *sources]):
        raise RuntimeError(f"protoc ended with {status}")


def differences(fresh: Path, committed: Path) -> list[str]:
    """Names of generated files that are missing, superfluous or different in `committed`."""
    wanted, present = _contents(fresh), _contents(committed)
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def main() -> int:
    """Generate or check; the exit status is 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when cluster/v1 is out of date")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = Path(folder) / PACKAGE, ROOT / PACKAGE
        changed = differences(fresh, committed)
        if check:
            print(f"out of date, run `make proto`: {', '.join(changed)}" if changed else "cluster/v1 is up to date")
            return 1 if changed else 0
        _install(fresh, committed, changed)
        print(f"cluster/v1: {len(changed)} files written or removed")
    return 0


def _install(fresh: Path, committed: Path, names: list[str]) -> None:
    committed.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (fresh / name).exists():
            (committed / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(fresh / name, committed / name)
        else:
            (committed / name).unlink()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for name in GENERATED for path in folder.rglob(name)}


def _program(name: str) -> Path:
    return Path(sys.executable).parent / name


if __name__ == "__main__":
    sys.exit(main())
