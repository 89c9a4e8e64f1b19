"""Runs the contract fuzz alone, or the unit tests alone, on changed code: a fault or a mutant."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock

from tests.environment import ROOT, libpq_url
from tests.planting.probe import Finding
from tests.planting.processes import Done, run_python
from tests.planting.workspace import Workspace

FUZZ_SECONDS = 300
UNIT_SECONDS = 900
"""Several times as long as without a change. pytest ends earlier if a single test hangs."""

Changed = Mapping[str, str]
"""The new text of each changed file, by path."""

TIMEOUT = "timeout"
DOES_NOT_START = "does not start"

IN_PROCESS = (
    "tests/tasks",
    "tests/http",
    "tests/auth",
    "tests/test_settings.py",
    "tests/test_specs.py",
    "tests/hostile",
    "tests/database",
)
"""Run for every module: about 70 s on two cores."""

_PROCFILE = ("tests/process/test_procfile.py", "tests/process/test_gunicorn.py")
_CONNECTIONS = ("tests/process/test_connections.py", "tests/process/test_gunicorn.py")
_TRACING = ("tests/process/test_tracing.py",)

COVERING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("auth/", ("tests/auth", "tests/hostile")),
    ("database/", ("tests/database",)),
    ("db.py", ("tests/database",)),
    ("gunicorn.conf.py", (*_PROCFILE, *_CONNECTIONS, *_TRACING)),
    ("main.py", ("tests/http", *_PROCFILE, *_TRACING)),
    ("migrations/", ("tests/database", *_PROCFILE)),
    ("models.py", ("tests/database",)),
    ("observability/", ("tests/http", "tests/process/test_gunicorn.py", *_TRACING)),
    ("services/", ("tests/tasks",)),
    ("settings.py", ("tests/test_settings.py", *_PROCFILE)),
    ("web/connections.py", ("tests/hostile", *_CONNECTIONS)),
    ("web/middleware.py", ("tests/http", "tests/process/test_gunicorn.py", *_TRACING)),
    ("web/", ("tests/http", "tests/hostile")),
    ("problems.py", ("tests/http",)),
    ("schemas.py", ("tests/tasks/test_fields.py", "tests/tasks")),
    ("routes/", ("tests/tasks", "tests/http")),
)
"""The tests that probably fail first, and those of `tests/process/` that run the module.

The other tests of processes run `tools/`, and no more of the product than these.
"""

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[.*)?(?: - .*)?$", re.MULTILINE)

_caught: defaultdict[str, Counter[str]] = defaultdict(Counter)
_passing: set[str] = set()
_lock = Lock()


@dataclass(frozen=True)
class Verdict:
    """`caught_by` is the check or test that failed, "timeout", "does not start", or None."""

    caught_by: str | None
    seconds: float
    what: str = ""


class Inconclusive(Exception):
    """The run failed without a result; the message is its output."""


def by_contract_fuzz(changed: Changed, workspace: Workspace) -> Verdict:
    started = time.monotonic()
    with workspace.plant(changed):
        finding = fuzz(workspace, _server(changed, workspace))
    return Verdict(seconds=_since(started), **asdict(finding))


def fuzz(workspace: Workspace, server: str = "") -> Finding:
    arguments = ["-m", "tests.planting.probe"]
    done = run_python(arguments, workspace.root, FUZZ_SECONDS, TEST_DATABASE_URL=server)
    if done.timed_out:
        return Finding(TIMEOUT)
    if done.returncode:
        raise Inconclusive(done.output[-2000:])
    return Finding(**json.loads(done.output.splitlines()[-1]))


def by_unit_tests(changed: Changed, workspace: Workspace, first: Sequence[str] = ()) -> Verdict:
    """What the tests `first` say, or all tests that cover the changed modules if those pass."""
    started = time.monotonic()
    server = _server(changed, workspace)
    caught = None
    with workspace.plant(changed):
        for tests in filter(None, (first, covering_tests(changed))):
            caught = caught or caught_by(_pytest(workspace, tests, server))
    seconds = _since(started)
    if caught and "::" in caught:
        _require_passing(caught, workspace)
        with _lock:
            for path in changed:
                _caught[path][caught.partition("::")[0]] += 1
    return Verdict(caught, seconds)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def _server(changed: Changed, workspace: Workspace) -> str:
    """The URL of the workspace's server, unless a migration is changed: roles belong to the server."""
    if workspace.server is None or any(path.startswith("migrations/") for path in changed):
        return ""
    return libpq_url(workspace.server)


def _pytest(workspace: Workspace, tests: Sequence[str], server: str) -> Done:
    options = ["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-k", "not pooled"]
    arguments = ["-m", "pytest", *options, *tests]
    return run_python(arguments, workspace.root, UNIT_SECONDS, TEST_DATABASE_URL=server)


def _require_passing(test: str, workspace: Workspace) -> None:
    """A test catches a change only if it passes without one; each is run once."""
    with _lock:
        if test in _passing:
            return
    done = _pytest(workspace, [test], _server({}, workspace))
    if done.returncode:
        raise Inconclusive(f"{test} also fails without a change: {done.output[-2000:]}")
    with _lock:
        _passing.add(test)


def covering_tests(paths: Iterable[str]) -> list[str]:
    """Files and folders of tests: first the files that caught other changes of the modules."""
    names: list[str] = []
    for path in paths:
        covering = next((tests for prefix, tests in COVERING if path.startswith(prefix)), ())
        with _lock:
            proven = [name for name, _ in _caught[path].most_common(3) if (ROOT / name).is_file()]
        names += [*proven, *_files(covering)]
    return [*dict.fromkeys([*names, *_files(IN_PROCESS)])]


def _files(names: Iterable[str]) -> list[str]:
    """Files instead of folders, so that one can be moved to the front."""
    found: list[str] = []
    for name in names:
        folder = ROOT / name
        files = sorted(folder.glob("test_*.py")) if folder.is_dir() else [folder]
        found += [str(file.relative_to(ROOT)) for file in files]
    return found


def caught_by(done: Done) -> str | None:
    """What a run of pytest says about the change."""
    if done.timed_out or "Timeout (" in done.output:
        return TIMEOUT
    if failed := _FAILED.search(done.output):
        return failed[1]
    if done.returncode == 0:
        return None
    if "tools.postgres.Failure" in done.output or "embedded PostgreSQL failed" in done.output:
        raise Inconclusive(done.output[-2000:])
    return DOES_NOT_START
