"""What a process and its children have used, read from /proc (Linux)."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """The process and all that come of it."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """User and system time of the family, of those that have ended too."""
    # Of children that have ended, the eldest knows.
    return sum(_ticks(each, 4 if each == pid else 2) for each in family(pid)) / TICKS


def _ticks(pid: int, kinds: int) -> int:
    """utime and stime, with 4 kinds those of children that have ended as well."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(map(int, fields[11 : 11 + kinds]))


def memory_megabytes(pid: int, kind: str = "Rss") -> float:
    """Rss is all that is resident, also what is shared; Pss has only a part of what others share."""
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0
