"""Reading CPU time and memory as Linux prints them."""

from __future__ import annotations

import pytest

from loadtests.overhead.procfs import (
    CoreTime,
    Memory,
    ProcessStat,
    descendants,
    parse_core_time,
    parse_memory,
    parse_stat,
)

STAT = (
    "4711 (nginx: (a) b) S 42 4711 4711 0 -1 4194624 900 0 1 0 310 1250 7 8 20 0 1 0 99 57000 800\n"
)
CORES = """\
cpu  300 0 160 1500 20 0 20 10 0 0
cpu0 100 5 60 700 10 1 9 3 50 0
cpu1 200 0 100 800 10 0 11 7 0 0
intr 12345
"""


def test_a_name_with_spaces_and_brackets_does_not_shift_the_fields() -> None:
    """User and system ticks, not those of children that were waited for."""
    assert parse_stat(STAT) == ProcessStat(pid=4711, parent=42, cpu_ticks=1560)


def test_memory_is_in_bytes() -> None:
    """`kB` in /proc is 1,024 bytes."""
    text = "Name:\tnginx\nVmPeak:\t  9000 kB\nVmHWM:\t    300 kB\nVmRSS:\t    200 kB\n"
    assert parse_memory(text) == Memory(now=204_800, peak=307_200)


def test_a_process_that_has_ended_holds_no_memory() -> None:
    """A zombie's status has no Vm lines."""
    assert parse_memory("Name:\tnginx\nState:\tZ (zombie)\n") == Memory(now=0, peak=0)


def test_a_core_is_busy_when_it_is_neither_idle_nor_waiting_for_a_disk() -> None:
    """Stolen time counts as busy; guest time is already within user time."""
    assert parse_core_time(CORES, 0) == CoreTime(busy=178, total=888)


def test_a_core_that_does_not_exist_is_an_error() -> None:
    """And `cpu` without a number is not core 0."""
    with pytest.raises(ValueError, match="no core 2"):
        parse_core_time(CORES, 2)


def test_the_busy_share_is_that_of_the_time_between() -> None:
    """Half of 200 ticks; and nothing, when no time has passed."""
    before = CoreTime(busy=100, total=1000)
    assert CoreTime(busy=200, total=1200).busy_share_since(before) == 0.5
    assert before.busy_share_since(before) == 0.0


def test_the_tree_holds_children_of_children_and_nobody_else() -> None:
    """Whatever the order of the process ids."""
    parents = {7: 1, 3: 7, 9: 3, 4: 7, 8: 1, 1: 0}
    assert sorted(descendants(7, parents)) == [3, 4, 7, 9]
