"""The manager's clock neither jumps nor goes back, whatever is done to the machine's."""

from dataclasses import dataclass

from manager.clock import SteadyClock

HOUR_MS = 3_600_000


@dataclass
class Machine:
    """The two clocks of a machine."""

    wall_ms: int = 1_700_000_000_000
    boot_ms: int = 5_000

    def run(self, ms: int) -> None:
        self.wall_ms += ms
        self.boot_ms += ms

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.wall_ms, lambda: self.boot_ms)


def test_it_counts_on_when_the_machines_clock_is_set() -> None:
    """Two hours forward and five back change nothing; each is told once."""
    machine = Machine()
    clock = machine.clock()
    began_ms = clock.now_ms()
    for step_ms in (2 * HOUR_MS, -5 * HOUR_MS):
        machine.wall_ms += step_ms
        machine.run(1_000)
        assert clock.new_step_ms() == machine.wall_ms - clock.now_ms()
        assert clock.new_step_ms() == 0
    assert clock.now_ms() == began_ms + 2_000


def test_small_corrections_are_not_told() -> None:
    """A time service moves the clock by moments all day long."""
    machine = Machine()
    clock = machine.clock()
    machine.wall_ms += 400
    assert clock.new_step_ms() == 0


def test_it_goes_on_from_the_newest_record_after_a_start_in_the_past() -> None:
    """A machine without a battery: its next boot is in 1970, and no time of the store lies ahead."""
    machine = Machine(wall_ms=0, boot_ms=0)
    clock = machine.clock()
    assert clock.start_after(1_700_000_000_000) == 1_700_000_000_000
    machine.run(500)
    assert clock.now_ms() == 1_700_000_000_500
    assert clock.new_step_ms() == 0
    machine.wall_ms = 1_700_000_100_000
    assert clock.new_step_ms() == 99_500


def test_records_of_the_past_change_nothing() -> None:
    """The usual start."""
    machine = Machine()
    clock = machine.clock()
    assert clock.start_after(machine.wall_ms - HOUR_MS) == 0
    assert clock.now_ms() == machine.wall_ms
