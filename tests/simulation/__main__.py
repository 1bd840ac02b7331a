"""`python -m simulation FIRST[:END]`: play schedules in a process of their own; the first that fails ends it.

Run it with PYTHONHASHSEED=0 and `tests` on the path; SIMULATION_STORY=N prints the last N lines of each story.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
from collections import Counter

from simulation.schedule import Schedule

REPLAY = "replay with: PYTHONHASHSEED=0 PYTHONPATH=tests .venv/bin/python -m simulation"


def main() -> int:
    """Play; answers 1 where a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("seeds", help="one seed, or FIRST:END")
    parser.add_argument("--go-on", action="store_true", help="after a failure as well")
    parser.add_argument("--digest", action="store_true", help="print a digest of each story")
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        parser.error("set PYTHONHASHSEED=0: otherwise a seed does not decide everything")
    first, _, end = arguments.seeds.partition(":")
    failed, faults, checks = [], Counter[str](), Counter[str]()
    began_s = time.process_time()
    for seed in range(int(first), int(end or int(first) + 1)):
        if not _play(seed, faults, checks, is_digest=arguments.digest):
            failed.append(seed)
            if not arguments.go_on:
                break
    figures = {"cpu_s": round(time.process_time() - began_s, 1), "failed": failed}
    print(json.dumps({**figures, "faults": dict(sorted(faults.items())), "checks": dict(sorted(checks.items()))}))
    return 1 if failed else 0


def _play(seed: int, faults: Counter[str], checks: Counter[str], *, is_digest: bool) -> bool:
    schedule = Schedule(seed)
    lines = int(os.environ.get("SIMULATION_STORY", "0"))
    is_good = False
    try:
        schedule.play()
        is_good = True
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        print(schedule.world.story.text(lines or 150))
        print(f"seed {seed} failed: {_words(error)}\n{REPLAY} {seed}", flush=True)
    else:
        if lines:
            print(schedule.world.story.text(lines))
    if is_digest:
        print(seed, hashlib.sha256(schedule.world.story.text(10**9).encode()).hexdigest())
    faults.update(schedule.world.story.faults)
    checks.update(schedule.world.story.checks)
    schedule.world.close()
    return is_good


def _words(error: BaseException) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    return "".join(traceback.format_exception(error))


sys.exit(main())
