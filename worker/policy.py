"""Restart policy and back-off, as pure functions."""

from __future__ import annotations

import random
from typing import Final

from cluster.jobs import JobSpec, RestartPolicy
from worker.records import Cause, Exit, Instance, Ref, Status

BACK_OFF_BASE_S: Final = 1.0
BACK_OFF_CAP_S: Final = 300.0
STABLE_RUN_S: Final = 60.0
START_TRIES: Final = 3
KILL_REPEAT_S: Final = 5.0


def back_off_s(failures: int, ref: Ref, seed: int) -> float:
    """Seconds before the next try after `failures` in a row: 1, 2, 4 … 300, each 25 % up or down by seed."""
    plain = min(BACK_OFF_CAP_S, BACK_OFF_BASE_S * 2.0 ** min(failures - 1, 30))
    return plain * random.Random(f"{seed}:{ref}:{failures}").uniform(0.75, 1.25)


def is_run_again(spec: JobSpec, exit_: Exit) -> bool:
    """Whether the policy starts it again after this end, attempts aside.

    A one-shot that completed, or whose outcome nobody knows, never runs again.
    """
    if spec.one_shot:
        is_failure = exit_.is_outcome_known and exit_.code != 0
        return is_failure and spec.restart_policy is not RestartPolicy.NEVER
    if spec.restart_policy is RestartPolicy.ON_FAILURE:
        return exit_.code != 0
    return spec.restart_policy is RestartPolicy.ALWAYS


def has_attempts_left(spec: JobSpec, failures: int) -> bool:
    """`max_attempts` bounds the starts in a row; 0 is without bound."""
    return spec.max_attempts == 0 or failures < spec.max_attempts


def final_status(exit_: Exit) -> Status:
    """What an instance that ended by itself for good has become."""
    return Status.COMPLETED if exit_.is_outcome_known and exit_.code == 0 else Status.FAILED


def describe(exit_: Exit) -> str:
    """The end in words."""
    if not exit_.is_outcome_known:
        return f"outcome unknown: {exit_.reason}" if exit_.reason else "outcome unknown"
    if exit_.reason:
        return exit_.reason
    return "ended" if exit_.code is None else f"exited with status {exit_.code}"


def why_stopped(item: Instance) -> str:
    """The reason for which it was stopped in words."""
    words = {
        Cause.DELETED: "stopped",
        Cause.REPLACED: "replaced by a newer generation",
        Cause.CUT_OFF: f"no lease from the manager for {item.spec.stop_after_s:g} s",
        Cause.WORKER_ENDED: "stopped with its worker",
    }
    return words[item.cause]
