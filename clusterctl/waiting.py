"""`--wait`: follow instances until they are where they should be, telling each change."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from cluster.v1 import instance_pb2, manager_pb2
from clusterctl.client import Manager
from clusterctl.exits import CommandError, ExitCode, UnreachableError
from clusterctl.formats import note
from clusterctl.output import printable

_POLL_S: Final = 0.2
_STARTED: Final = (instance_pb2.INSTANCE_STATE_RUNNING, instance_pb2.INSTANCE_STATE_COMPLETED)
_ENDED: Final = (
    instance_pb2.INSTANCE_STATE_STOPPED,
    instance_pb2.INSTANCE_STATE_COMPLETED,
    instance_pb2.INSTANCE_STATE_FAILED,
    instance_pb2.INSTANCE_STATE_LOST,
)
Instances = list[instance_pb2.Instance]
Keys = Sequence[instance_pb2.InstanceKey]


def until_running(manager: Manager, keys: Keys, timeout_s: float) -> Instances:
    """Wait until all run or have completed. Raises CommandError at once where one has failed for good."""
    return _follow(manager, keys, timeout_s, lambda found: len(found) == len(keys) and _all_started(found))


def until_gone(manager: Manager, keys: Keys, timeout_s: float) -> Instances:
    """Wait until all have ended and none holds a place on a node."""
    return _follow(manager, keys, timeout_s, lambda found: all(_is_gone(item) for item in found))


def until_moved(manager: Manager, key: instance_pb2.InstanceKey, source: str, timeout_s: float) -> Instances:
    """Wait until an instance runs elsewhere alone. Raises CommandError where it stayed on `source`."""
    return _follow(manager, [key], timeout_s, lambda found: _is_moved(found, source))


def _is_moved(found: Instances, source: str) -> bool:
    if not found or len(found[0].placements) != 1:
        return False
    instance = found[0]
    if instance.node_id == source:
        raise CommandError(f"{_name(instance)} stayed where it was: {printable(instance.detail)}")
    return instance.state in _STARTED


def _all_started(found: Instances) -> bool:
    for item in found:
        if item.state == instance_pb2.INSTANCE_STATE_FAILED and not item.HasField("retry_at"):
            raise CommandError(f"{_name(item)} failed: {printable(item.detail)}")
        if item.state == instance_pb2.INSTANCE_STATE_STOPPED:
            raise CommandError(f"{_name(item)} was deleted meanwhile")
    return all(item.state in _STARTED for item in found)


def _is_gone(item: instance_pb2.Instance) -> bool:
    return not item.placements and (item.state in _ENDED or not item.is_desired)


def _follow(manager: Manager, keys: Keys, timeout_s: float, is_done: Callable[[Instances], bool]) -> Instances:
    deadline = time.monotonic() + timeout_s
    told = ""
    while True:
        found = _read(manager, keys)
        if found is not None:
            if (story := _story(found)) != told:
                note(story)
                told = story
            if is_done(found):
                return found
        if time.monotonic() >= deadline:
            raise CommandError(f"not there after {timeout_s:g} s: {told}", ExitCode.TIMEOUT)
        time.sleep(_POLL_S)


def _read(manager: Manager, keys: Keys) -> Instances | None:
    try:
        return list(_instances(manager, keys))
    except UnreachableError:
        return None


def _instances(manager: Manager, keys: Keys) -> Iterator[instance_pb2.Instance]:
    for job_id, group in groupby(sorted(keys, key=lambda key: key.job_id), key=lambda key: key.job_id):
        wanted = {key.number for key in group}
        request = manager_pb2.ListInstancesRequest(job_id=job_id)
        for page in manager.pages(manager.api.ListInstances, request):
            yield from (item for item in page.instances if item.key.number in wanted)


def _story(found: Iterable[instance_pb2.Instance]) -> str:
    listed = list(found)
    if len(listed) == 1:
        detail = f" ({printable(listed[0].detail)})" if listed[0].detail else ""
        return f"{_name(listed[0])}: {_word(listed[0])}{detail}"
    counts = Counter(_word(item) for item in listed)
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "none"


def _word(item: instance_pb2.Instance) -> str:
    return instance_pb2.InstanceState.Name(item.state).removeprefix("INSTANCE_STATE_")


def _name(item: instance_pb2.Instance) -> str:
    return f"{item.job_name or item.key.job_id}/{item.key.number}"
