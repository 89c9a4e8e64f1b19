"""CPU time and memory of a process and its descendants, from /proc (Linux only)."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def process_tree(pid: int) -> Iterator[int]:
    """The process ID itself, then those of all its descendants."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from process_tree(int(child))


def cpu_seconds(pid: int) -> float:
    """User plus system time of the process tree, including children of `pid` that have exited."""
    return sum(_ticks(each, include_exited=each == pid) for each in process_tree(pid)) / TICKS


def _ticks(pid: int, *, include_exited: bool) -> int:
    """utime + stime; with `include_exited` also cutime + cstime (children that were waited for)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(map(int, fields[11 : 15 if include_exited else 13]))


def memory_megabytes(pid: int, kind: str = "Rss") -> float:
    """Rss counts shared pages in full; Pss divides them by the number of processes that share them."""
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
