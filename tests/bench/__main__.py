"""`python tests/bench [--json FILE] [--heavy | --only NAME…] [--nodes N]… [--strict]`: measure, print, write JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_PARTS: Final = ("telemetry", "deploys", "placement", "startup", "memory", "store_writes", "loop")
_HEAVY: Final = ("storm", "outage", "full_memory")
_SIZED: Final = ("loop", *_HEAVY)

if TYPE_CHECKING:
    from bench.figures import Figure


def main(arguments: Sequence[str]) -> int:
    """Run the parts that were asked for; 1 where `--strict` and a figure misses its limit."""
    options = _parser().parse_args(arguments)
    sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]
    os.environ["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{_ROOT / 'tests'}"
    from bench.figures import table
    from bench.own_figures import figures_of

    found: list[Figure] = []
    results: dict[str, Any] = {"machine": _machine()}
    for name in options.only or (_HEAVY if options.heavy else _PARTS):
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        sizes = {"sizes": tuple(options.nodes)} if options.nodes and name in _SIZED else {}
        results[name] = importlib.import_module(f"bench.{name}").run(**sizes)
        found += figures_of(name, results[name])
    results["figures"] = [{**vars(figure), "verdict": figure.verdict} for figure in found]
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(found))
    print(f"\nall figures: {options.json}")
    return int(options.strict and any(figure.is_missed for figure in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/bench", description=__doc__)
    parser.add_argument("--json", type=Path, default=_ROOT / ".cache" / "bench.json", metavar="FILE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--heavy", action="store_true", help=f"measure what takes minutes: {', '.join(_HEAVY)}")
    which.add_argument("--only", action="append", choices=(*_PARTS, *_HEAVY), help="this part only; may be repeated")
    help_nodes = f"number of nodes, for {', '.join(_SIZED)}; may be repeated, the smallest first"
    parser.add_argument("--nodes", action="append", type=int, help=help_nodes)
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a figure misses its limit")
    return parser


def _machine() -> dict[str, Any]:
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_1_min": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
