"""A file that others append to stays within its bound."""

from pathlib import Path

from cluster.log_files import bound, older_part


def test_what_is_cut_off_lies_beside_it(tmp_path: Path) -> None:
    """The writer goes on appending to the emptied file; below the bound nothing happens."""
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 30)
        assert not bound(log, 120)
        assert bound(log, 119)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert older_part(log).read_bytes() == b"old\n" * 30


def test_without_room_for_the_older_part_the_end_is_kept(tmp_path: Path) -> None:
    """It is cut nevertheless, which makes room, and goes on after its last lines."""
    log = tmp_path / "log"
    older_part(log).mkdir()  # as little use as a full disk
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 30)
        assert bound(log, 80)
        writer.write(b"new\n")
    assert log.read_bytes() == b"old\n" * 10 + b"new\n"


def test_what_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    """A log that is not there, or is none, raises nothing."""
    assert not bound(tmp_path / "missing")
    assert not bound(tmp_path, 1)
