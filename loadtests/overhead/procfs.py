"""What Linux knows about processes: CPU time, memory, and how busy a core was."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessStat:
    """The few fields of ``/proc/PID/stat`` that matter here."""

    pid: int
    parent: int
    cpu_ticks: int
    """User and system time of all its threads, also of those that have ended."""


@dataclass(frozen=True)
class Memory:
    """Resident memory in bytes: now, and at its highest since the process started."""

    now: int
    peak: int


@dataclass(frozen=True)
class CoreTime:
    """Clock ticks of one core since boot."""

    busy: int
    total: int

    def busy_share_since(self, earlier: CoreTime) -> float:
        """0 to 1: how much of the time since ``earlier`` the core was not idle."""
        total = self.total - earlier.total
        return (self.busy - earlier.busy) / total if total > 0 else 0.0


def parse_stat(text: str) -> ProcessStat:
    """Reads ``/proc/PID/stat``. The name in brackets may itself hold spaces and brackets."""
    before, _, after = text.rpartition(")")
    fields = after.split()
    return ProcessStat(
        pid=int(before.split(" ", 1)[0]),
        parent=int(fields[1]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
    )


def parse_memory(text: str) -> Memory:
    """Reads ``/proc/PID/status``; its kB are 1,024 bytes."""
    size = {"VmRSS": 0, "VmHWM": 0}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in size:
            size[name] = int(value.split()[0]) * 1024
    return Memory(now=size["VmRSS"], peak=size["VmHWM"])


def parse_core_time(text: str, core: int) -> CoreTime:
    """Reads ``/proc/stat``. Time stolen by a hypervisor counts as busy: nobody could use it."""
    for line in text.splitlines():
        fields = line.split()
        if fields and fields[0] == f"cpu{core}":
            # user nice system idle iowait irq softirq steal; what follows is contained in user
            ticks = [int(field) for field in fields[1:9]]
            return CoreTime(busy=sum(ticks) - ticks[3] - ticks[4], total=sum(ticks))
    raise ValueError(f"no core {core} in /proc/stat")


def descendants(root: int, parents: dict[int, int]) -> list[int]:
    """``root`` and everything below it, given each process's parent."""
    found = [root]
    for pid in found:  # grows while it is read
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def process_tree(root: int) -> list[ProcessStat]:
    """A process and its descendants, as they are now; empty when it has gone."""
    stats: dict[int, ProcessStat] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            stats[stat.pid] = stat
    tree = descendants(root, {pid: stat.parent for pid, stat in stats.items()})
    return [stats[pid] for pid in tree if pid in stats]


def tree_cpu_s(root: int) -> float:
    """CPU seconds, user and system, of a process and its living descendants."""
    return sum(stat.cpu_ticks for stat in process_tree(root)) / os.sysconf("SC_CLK_TCK")


def tree_memory(root: int) -> Memory:
    """Resident memory of a process and its descendants; shared pages count once per process."""
    sizes = [
        parse_memory((PROC / str(stat.pid) / "status").read_text()) for stat in process_tree(root)
    ]
    return Memory(now=sum(size.now for size in sizes), peak=sum(size.peak for size in sizes))


def core_time(core: int) -> CoreTime:
    """How long one core has been busy since boot."""
    return parse_core_time((PROC / "stat").read_text(), core)
