"""One line about the tests that did not run because a program is not installed.

Without PgBouncer the tests that use both routes to the database run on the direct one only.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable

import pytest

from tests.environment import MISSING, find_program

POOLER = "pgbouncer"
# In CI the tests through PgBouncer always exist, so that they fail if it is missing.
ROUTES = ["direct", "pooled"] if find_program(POOLER) or os.environ.get("CI") else ["direct"]


def not_run(reports: Iterable[pytest.TestReport]) -> str:
    """The programs, the number of tests that need each, and the command to install them; empty if all ran."""
    programs = Counter(filter(None, map(_missing, reports)))
    if not programs:
        return ""
    numbers = ", ".join(f"{name} ({number:,})" for name, number in programs.items())
    return f"Not run: tests that need {numbers}. To run them: apt install {' '.join(programs)}"


def _missing(report: pytest.TestReport) -> str | None:
    """The program that this test, or the same test through PgBouncer, did not find."""
    if report.skipped:
        found = re.search(MISSING.format(program=r"(\S+)"), report.longreprtext)
        return found and found[1]
    only_direct = "pooled" not in ROUTES and "direct" in re.split(r"[\[\]-]", report.nodeid)
    return POOLER if only_direct else None
