"""The plans of the very statements that the service sends, with the buffers they touch.

auto_explain writes them to the server's log while the statements run, which no
repetition by hand can match: the same role, the same row security, the same row
that is not there yet. Source: https://www.postgresql.org/docs/current/auto-explain.html
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
_BUFFERS = re.compile(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?")


@dataclass(frozen=True)
class Plan:
    """What one request ran on tasks; `text` is as EXPLAIN (ANALYZE, BUFFERS) writes it."""

    text: str

    def nodes(self) -> list[str]:
        return _NODE.findall(self.text)

    def buffers(self) -> int:
        """Pages touched, found in memory or read: of the topmost node, which has those below it."""
        found = _BUFFERS.search(self.text)
        return sum(int(count) for count in found.groups(default="0")) if found else 0

    def has(self, node: str) -> bool:
        return any(each.startswith(node) for each in self.nodes())


def log_plans(url: URL) -> None:
    """From now on, for new connections to this database."""
    for name, value in SETTINGS.items():
        data.ask(url, f"ALTER DATABASE {url.database} SET {name} = '{value}'")


def capture(url: URL, request: Callable[[], object]) -> Plan:
    """The plan of what the request runs. Nothing else may use the server meanwhile."""
    log = _log(url)
    with log.open() as file:
        file.seek(0, 2)
        request()
        plans = [_without_query(entry) for entry in _ENTRY.findall(file.read())]
    return Plan("\n".join(plan for plan in plans if " on tasks" in plan))


def _log(url: URL) -> Path:
    """Where tools.postgres has its server write."""
    [(folder,)] = data.ask(url, "SHOW data_directory")
    return Path(folder).parent / "log"


def _without_query(entry: str) -> str:
    lines = [line.removeprefix("\t") for line in entry.splitlines()]
    first = next(number for number, line in enumerate(lines) if _NODE.match(line))
    return "\n".join(lines[first:])
