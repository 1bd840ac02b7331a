"""Steps between schemas."""

import pytest

from manager.ports import Kind, StoreError
from manager.store import codec, migrations
from manager.store.shapes import Document
from testbed.records import instance, spec

_PLAIN = {"name": "web", "image": "i", "technology": "docker"}


def _version_0() -> Document:
    placement = {"node_id": "n", "generation": 1, "state": "RUNNING", "since_ms": 5, "spec": {**_PLAIN, "ports": "1"}}
    key = {"job_id": "j", "number": 3}
    return {"key": key, "spec": _PLAIN, "is_desired": True, "state": "RUNNING", "current": placement, "retiring": None}


def test_version_0_moves_its_specifications_into_the_table() -> None:
    """Inline copies become keys, and the record reads as it was meant."""
    document = migrations.upgraded(Kind.INSTANCE, _version_0(), 0)
    record = codec.decode(Kind.INSTANCE, document, codec.no_spec, codec.Interner())
    assert record.spec == spec(image="i")  # type: ignore[union-attr]
    assert record.current.spec == spec(image="i", ports="1")  # type: ignore[union-attr]


def test_equal_copies_become_one_entry() -> None:
    """A placement with the instance's own specification refers to the same entry."""
    document = _version_0()
    document["current"]["spec"] = dict(reversed(_PLAIN.items()))
    upgraded = migrations.upgraded(Kind.INSTANCE, document, 0)
    assert len(upgraded["specs"]) == 1
    assert upgraded["spec"] == upgraded["current"]["spec"]


def test_the_original_is_left_alone() -> None:
    """A step makes a new document."""
    document = _version_0()
    migrations.upgraded(Kind.INSTANCE, document, 0)
    assert document == _version_0()


def test_a_document_of_today_is_not_touched() -> None:
    """Nothing happens between equal schemas."""
    document = codec.encode(instance())
    assert migrations.upgraded(Kind.INSTANCE, document, migrations.SCHEMA) is document


def test_a_newer_schema_is_refused_with_the_remedy() -> None:
    """An old program does not guess at what a newer one wrote."""
    with pytest.raises(StoreError, match="run the newer version"):
        migrations.upgraded(Kind.NODE, {}, migrations.SCHEMA + 1)
