"""`python tests/mutants [--area NAME]… [--count N] [--seed N]`: let mutmut change the source and see who notices."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_TESTS: Final = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    """Try a sample of each area; 1 where less of one is killed than `--least`."""
    sys.path[:0] = [str(_TESTS)]
    from mutants.sampling import AREAS, WORK, Bench, changes_words_only

    options = _parser(tuple(AREAS)).parse_args(arguments)
    outcomes, lines = [], []
    for area in options.area or AREAS:
        print(f"trying {options.count} mutants of {area} (seed {options.seed}) …", file=sys.stderr, flush=True)
        bench = Bench(area, with_simulation=options.simulation)
        outcome = bench.try_sample(options.count, options.seed)
        outcomes.append(outcome)
        shown = [bench.show(name) for name in outcome.alive]
        words = sum(map(changes_words_only, shown))
        lines.append(f"{outcome.line}; {words} of the alive change texts only")
        (WORK / f"{area}-alive.txt").write_text("\n".join([lines[-1], "", *sorted(shown, key=changes_words_only)]))
    print("\n".join(lines))
    print(f"\nwhat nobody noticed: {WORK}/*-alive.txt")
    return int(any(outcome.share < options.least for outcome in outcomes))


def _parser(areas: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__)
    parser.add_argument("--area", action="append", choices=areas, help="this area only; may be repeated")
    parser.add_argument("--count", type=int, default=100, help="how many mutants of each area (default 100)")
    parser.add_argument("--seed", type=int, default=1, help="which ones: the same seed takes the same (default 1)")
    parser.add_argument("--least", type=float, default=0.0, help="the share that has to be killed, 0 to 1 (default 0)")
    parser.add_argument("--simulation", action="store_true", help="with the simulation's schedules; slow")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
