"""Runs the contract fuzz alone, or the unit tests alone, on changed code: a fault or a mutant."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock

import pytest

from tests.environment import ROOT, libpq_url
from tests.planting.probe import Finding
from tests.planting.processes import Done
from tests.planting.workspace import Workspace

SITUATION_SECONDS = 60
FUZZ_SECONDS = 300
UNIT_SECONDS = 900
"""Several times as long as without a change."""

NOT_THROUGH_THE_POOLER = "not [pooled and not -pooled"
"""Leaves out the second half of tests that run with and without PgBouncer, by its parameter."""

TEST_SECONDS = 60
"""After this time in one test, pytest ends. The longest takes half of it."""

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

    @property
    def is_test(self) -> bool:
        return "::" in (self.caught_by or "")


class Inconclusive(Exception):
    """The run failed without a result; the message is its output."""


def by_contract_fuzz(changed: Changed, workspace: Workspace, first: str = "") -> Verdict:
    """What the fuzz says, beginning with the situation `first`."""
    started = time.monotonic()
    server = _server(changed, workspace)
    finding = Finding(None)
    with workspace.plant(changed):
        if first:
            [finding] = _probe(workspace, server, SITUATION_SECONDS, first)
        if finding.caught_by is None:
            finding = fuzz(workspace, server)
    return Verdict(seconds=_since(started), **asdict(finding))


def fuzz(workspace: Workspace, server: str = "") -> Finding:
    [finding] = _probe(workspace, server, FUZZ_SECONDS)
    return finding


def _probe(workspace: Workspace, server: str, seconds: float, *situations: str) -> list[Finding]:
    """One finding for each of the situations, or one for the whole fuzz."""
    done = workspace.python.run("tests.planting.probe", situations, seconds, TEST_DATABASE_URL=server)
    if done.timed_out:
        return [Finding(TIMEOUT)]
    if done.returncode:
        raise Inconclusive(done.output[-2000:])
    return [Finding(**each) for each in json.loads(done.output.splitlines()[-1])]


def by_unit_tests(
    changed: Changed, workspace: Workspace, first: Sequence[str] = (), *, confirm: bool = True
) -> Verdict:
    """What the tests say: first those given, then, if they pass, all that cover the modules.

    Unless `confirm` is false, the test that fails is also run without the change, and must pass.
    """
    started = time.monotonic()
    server = _server(changed, workspace)
    caught = None
    with workspace.plant(changed):
        for tests in filter(None, (first, covering_tests(changed))):
            caught = caught or caught_by(_pytest(workspace, tests, server))
    seconds = _since(started)
    if caught and "::" in caught:
        if confirm:
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


def _pytest(workspace: Workspace, tests: Sequence[str], server: str, *, stop: bool = True) -> Done:
    """Without the plug-ins of other packages, which take longer to load than most tests to run.

    Assertions are not rewritten: pytest rejects packages that were imported before it starts.
    """
    options = ["-q", "--no-header", "--tb=line", "--assert=plain", "-p", "no:cacheprovider"]
    options += ["-k", NOT_THROUGH_THE_POOLER]
    options += ["-o", f"faulthandler_timeout={TEST_SECONDS}"]
    arguments = [*options, *(["-x"] if stop else []), *tests]
    variables = {"TEST_DATABASE_URL": server, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return workspace.python.run("pytest", arguments, UNIT_SECONDS, **variables)


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


def failing(tests: Sequence[str], situations: Sequence[str], workspace: Workspace) -> set[str]:
    """Those of the tests, and what fails of the situations, without a change."""
    server, found = _server({}, workspace), set()
    if tests:
        done = _pytest(workspace, tests, server, stop=False)
        found = set(_FAILED.findall(done.output))
        if caught_by(done) and not found:
            raise Inconclusive(done.output[-2000:])
    if situations:
        findings = _probe(workspace, server, FUZZ_SECONDS, *situations)
        if findings == [Finding(TIMEOUT)]:
            raise Inconclusive("the situations without a change take too long")
        found |= {each.caught_by for each in findings if each.caught_by}
    return found


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
    nothing = ("ERROR: not found:", "ERROR: file or directory not found:")
    if done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED or any(each in done.output for each in nothing):
        raise Inconclusive(f"no test ran: {done.output[-2000:]}")
    if "tools.postgres.Failure" in done.output or "embedded PostgreSQL failed" in done.output:
        raise Inconclusive(done.output[-2000:])
    return DOES_NOT_START
