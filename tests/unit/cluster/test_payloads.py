"""Amounts that no machine has, in messages that anybody may send: they cost the message or the amount, nothing else."""

import pytest

from cluster.errors import InvalidInputError
from cluster.nodes import Dialect
from cluster.payloads import LARGEST_EXIT_CODE, parse_information, parse_resources, parse_state
from cluster.v1 import instance_pb2, node_pb2

HUGE = ["1e308", '"1e308"', "1e18", "-1e18", "123456789012345678901234567890"]


@pytest.mark.parametrize("amount", HUGE)
@pytest.mark.parametrize("dialect", list(Dialect))
def test_free_memory_beyond_all_bounds_is_refused(amount: str, dialect: Dialect) -> None:
    """In MB it may be a number that in bytes is none."""
    with pytest.raises(InvalidInputError, match="number"):
        parse_information(f'{{"cpu": 1, "memory": 1, "memory_free_in_MB": {amount}}}'.encode(), dialect)


def test_free_memory_of_any_real_machine_can_be_shown() -> None:
    """A million terabytes are taken, and fit where they are shown."""
    telemetry = parse_information(b'{"cpu": 1, "memory": 1, "memory_free_in_MB": 1000000000000}', Dialect.SEED)
    assert node_pb2.NodeUsage(memory_free_bytes=telemetry.memory_free_bytes).memory_free_bytes == 2**20 * 10**12


def test_free_memory_below_nothing_is_none() -> None:
    """It would make the sum that a root is told less than what the other nodes have."""
    assert parse_information(b'{"cpu": 1, "memory": 1, "memory_free_in_MB": -5}', Dialect.SEED).memory_free_bytes == 0


@pytest.mark.parametrize("amount", ["1e308", "1e19", "-1e19", "nan", "inf"])
def test_amounts_in_lists_beyond_all_bounds_are_left_out(amount: str) -> None:
    """The entry counts all the same: it says what runs."""
    keys = ", ".join(f'"{key}": "{amount}"' for key in ("cpu_percent", "memory", "memory_percent", "disk"))
    [entry] = parse_resources(f'{{"services": [{{"job_name": "web", "instance": 0, {keys}}}]}}'.encode()).entries
    assert (entry.cpu_percent, entry.memory_bytes, entry.memory_share, entry.disk_bytes) == (None, None, None, None)


@pytest.mark.parametrize(("code", "shown"), [(3, 3), (4294967295, LARGEST_EXIT_CODE), (-(2**40), -(2**31))])
def test_exit_codes_can_be_shown(code: int, shown: int) -> None:
    """A WebAssembly module may end with any unsigned number: it is saved, so it must fit where it is shown."""
    report = parse_state(f'{{"sname": "web", "instance": 0, "status": "DEAD", "exit_code": {code}}}'.encode())
    [entry] = parse_resources(
        f'{{"services": [{{"job_name": "web", "instance": 0, "exit_code": {code}}}]}}'.encode()
    ).entries
    assert (report.exit_code, entry.exit_code) == (shown, shown)
    assert instance_pb2.Instance(exit_code=report.exit_code).exit_code == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("0", 0), ("17", 17), ("null", None), ("-1", None), ('"x"', None), ("true", None)]
)
def test_a_number_of_restarts_is_optional(value: str, shown: int | None) -> None:
    """Of states and of entries; what is no count is left out, and the rest of the message counts."""
    report = parse_state(f'{{"sname": "web", "instance": 0, "status": "RUNNING", "restarts": {value}}}'.encode())
    [entry] = parse_resources(
        f'{{"services": [{{"job_name": "web", "instance": 0, "restarts": {value}}}]}}'.encode()
    ).entries
    assert (report.restarts, entry.restarts) == (shown, shown)
    assert parse_state(b'{"sname": "web", "instance": 0, "status": "RUNNING"}').restarts is None
