"""Query plans of the statements as the service sends them, with the buffers they touch.

auto_explain logs each plan while the service's own statement runs, with the same role,
row security and data; re-running a statement under EXPLAIN would not reproduce these.
Source: https://www.postgresql.org/docs/current/auto-explain.html
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from bench import data

SETTINGS = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_nested_statements": "on",
}

_ENTRY = re.compile(r"LOG:  duration: .* plan:\n((?:\t.*\n)+)")
_NODE = re.compile(r"^\s*(?:->  )?(\S.*?)  \(cost=", re.MULTILINE)
_INDEX = re.compile(r"Index (?:Only )?Scan.* using (\S+) on tasks ")
_BUFFERS = re.compile(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?")


@dataclass(frozen=True)
class Plan:
    """The plans of one request's statements on the table `tasks`."""

    text: str
    """In the format of EXPLAIN (ANALYZE, BUFFERS)."""

    def nodes(self) -> list[str]:
        return _NODE.findall(self.text)

    def buffers(self) -> int:
        """Pages (8 KiB) that were hit or read. The top node's count includes its children's."""
        found = _BUFFERS.search(self.text)
        return sum(int(count) for count in found.groups(default="0")) if found else 0

    def indexes(self) -> list[str]:
        """The indexes by which it finds tasks, each once."""
        return list(dict.fromkeys(_INDEX.findall(self.text)))

    def has(self, node: str) -> bool:
        return any(each.startswith(node) for each in self.nodes())


def log_plans(url: URL) -> None:
    """Enable auto_explain for new connections to this database."""
    for name, value in SETTINGS.items():
        data.execute(url, f"ALTER DATABASE {url.database} SET {name} = '{value}'")


def capture(url: URL, request: Callable[[], object]) -> Plan:
    """The plan of the statement that the request runs. Nothing else may use the server at the same time."""
    log = _log(url)
    with log.open() as file:
        file.seek(0, 2)
        request()
        plans = [_without_query(entry) for entry in _ENTRY.findall(file.read())]
    return Plan("\n".join(plan for plan in plans if " on tasks" in plan))


def _log(url: URL) -> Path:
    """The log file of a server that tools.postgres started."""
    [(folder,)] = data.execute(url, "SHOW data_directory")
    return Path(folder).parent / "log"


def _without_query(entry: str) -> str:
    lines = [line.removeprefix("\t") for line in entry.splitlines()]
    first = next(number for number, line in enumerate(lines) if _NODE.match(line))
    return "\n".join(lines[first:])
