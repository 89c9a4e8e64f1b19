"""Runs Python modules in forked processes, in which the packages are imported already.

python zygote.py — reads a request from each line of standard input, a JSON object with the
arguments of `_run`, and answers with two lines: the process ID, and later the exit status. The
imports take longer than most of the tests that are run. Must not import from the project,
whose files change between the requests.
"""

import importlib
import json
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PACKAGES = (
    "alembic.command",
    "factory",
    "fastapi",
    "fastapi.testclient",
    "hypothesis",
    "jwt",
    "psycopg2",
    "pytest",
    "requests",
    "schemathesis",
    "sqlmodel",
    "starlette.testclient",
)


def main() -> None:
    for name in PACKAGES:
        importlib.import_module(name)
    sys.path[0] = str(Path.cwd())
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _run(**json.loads(line))
            return
        _answer(process)
        _, status = os.waitpid(process, 0)
        _answer(os.waitstatus_to_exitcode(status))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _run(module: str, arguments: Sequence[str], environment: Mapping[str, str], output: str) -> None:
    """Run the module like `python -m`, as the leader of a session, with its output in a file."""
    os.setsid()
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(output, os.O_WRONLY | os.O_APPEND)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
