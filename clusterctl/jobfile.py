"""Job documents from files, standard input and flags, checked before anything is sent."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.documents import MAX_BODY_BYTES, parse_job, parse_job_id, parse_json, replicas_of
from cluster.errors import ClusterError
from cluster.jobs import JobSpec
from clusterctl.exits import UsageError


@dataclass(frozen=True, kw_only=True)
class WantedJob:
    """A job that should run with so many instances."""

    job_id: str
    spec: JobSpec
    replicas: int


def read_documents(source: str) -> list[dict[str, Any]]:
    """The job documents in a JSON or YAML file ("-": standard input): one, a list, or several YAML documents."""
    body = _read(source)
    if len(body) > MAX_BODY_BYTES:
        raise UsageError(f"{source} has {len(body)} bytes; at most {MAX_BODY_BYTES} are taken")
    is_json = source.endswith(".json") or body.lstrip()[:1] in (b"{", b"[")
    try:
        found = [parse_json(body)] if is_json else list(yaml.safe_load_all(body))
    except (ClusterError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read {source}: {error}") from None
    flat = [item for entry in found for item in (entry if isinstance(entry, list) else [entry]) if item is not None]
    if not flat:
        raise UsageError(f"{source} holds no job document")
    for item in flat:
        if not isinstance(item, dict):
            raise UsageError(f"{source}: a job document is an object with keys such as name, image, technology")
    return flat


def _read(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from None


def wanted_jobs(
    documents: Iterable[dict[str, Any]], *, job_id: str = "", replicas: int | None = None
) -> list[WantedJob]:
    """The jobs in checked documents; the id is `job_id`, the document's `_id`, or new. Raises UsageError."""
    jobs = [_wanted(document, job_id, replicas) for document in documents]
    ids = [job.job_id for job in jobs]
    if len(set(ids)) != len(ids):
        raise UsageError("two of the documents have the same job id")
    return jobs


def _wanted(document: dict[str, Any], job_id: str, replicas: int | None) -> WantedJob:
    try:
        spec = parse_job(document)
        given = job_id or document.get("_id", "")
        found = parse_job_id(given, "_id") if given != "" else secrets.token_hex(12)
    except ClusterError as error:
        raise UsageError(f"the job document is wrong at {error.field!r}: {error.detail}") from None
    return WantedJob(job_id=found, spec=spec, replicas=replicas_of(document) if replicas is None else replicas)


def merged(document: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """A document with what the flags say on top; environment entries are added, everything else is replaced."""
    given = {key: value for key, value in flags.items() if value not in (None, [], "")}
    environment = [*(document.get("environment") or []), *given.pop("environment", [])]
    return document | given | ({"environment": environment} if environment else {})
