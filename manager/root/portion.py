"""What one report tells: instances as they are and as documents, up to a number and a size. Pure."""

from __future__ import annotations

from typing import Any, Final

import orjson

from manager.domain.model import Instance, InstanceKey

MAX_INSTANCES: Final = 200
MAX_BYTES: Final = 256 * 1024
JOB_BYTES: Final = 256  # what a job costs beside its name, its detail and its instances


class Portion:
    """The instances of a report, in order; `composed_mono_s` is the moment that it tells of."""

    def __init__(self, composed_mono_s: float = 0.0, *, most: int = MAX_INSTANCES, most_bytes: int = MAX_BYTES) -> None:
        self.composed_mono_s = composed_mono_s
        self.told: list[Instance] = []
        self.documents: dict[str, list[dict[str, Any]]] = {}
        self.size_bytes = 0
        self.refresh_count = 0
        self.refresh_bytes = 0
        self._most = most
        self._most_bytes = most_bytes

    @property
    def keys(self) -> tuple[InstanceKey, ...]:
        """The instances that it tells of."""
        return tuple(instance.key for instance in self.told)

    def add(self, instance: Instance, document: dict[str, Any], job_detail: str, *, is_refresh: bool) -> bool:
        """Take one more in; False where it is full. The first one always fits."""
        cost_bytes = len(orjson.dumps(document))
        if instance.key.job_id not in self.documents:
            cost_bytes += JOB_BYTES + len(orjson.dumps([instance.job_name, job_detail]))
        if self.told and (len(self.told) >= self._most or self.size_bytes + cost_bytes > self._most_bytes):
            return False
        self.told.append(instance)
        self.documents.setdefault(instance.key.job_id, []).append(document)
        self.size_bytes += cost_bytes
        self.refresh_count += is_refresh
        self.refresh_bytes += cost_bytes if is_refresh else 0
        return True
