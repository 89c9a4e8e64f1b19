"""A private copy of the working tree, in which files can be changed for a while.

Everything that runs in the copy sees the change: gunicorn, Alembic and every other process
that a test starts.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL

from tests.environment import ROOT
from tests.planting.processes import Python
from tests.process.clone import NOT_CLONED


class Workspace:
    """A copy of the project without data and caches, and with links to the installed packages.

    `server` is a PostgreSQL server that runs in the workspace may share. Without one each run
    starts its own, which takes some seconds.
    """

    def __init__(self, server: URL | None = None) -> None:
        self.server = server
        self._stack = ExitStack()
        folder = tempfile.TemporaryDirectory(prefix="tasks-api-workspace-")
        self.root = Path(self._stack.enter_context(folder))
        self.python: Python
        self._time = int(time.time()) - 1_000_000

    def __enter__(self) -> Self:
        shutil.copytree(ROOT, self.root, ignore=_not_copied, dirs_exist_ok=True)
        # PostgreSQL may run as another user, who needs access.
        self.root.chmod(0o755)
        for installed in (ROOT / ".venv", *ROOT.glob("tests/*/node_modules")):
            if installed.exists():
                (self.root / installed.relative_to(ROOT)).symlink_to(installed.resolve())
        self.python = self._stack.enter_context(Python(self.root))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def plant(self, changed: Mapping[str, str]) -> Iterator[None]:
        """Replace the contents of files, given by path; afterwards they are as before."""
        before = {path: (self.root / path).read_bytes() for path in changed}
        try:
            for path, text in changed.items():
                self._write(self.root / path, text.encode())
            yield
        finally:
            for path, data in before.items():
                self._write(self.root / path, data)

    def _write(self, file: Path, data: bytes) -> None:
        """With a modification time of its own.

        Python recognizes outdated bytecode by size and by the second of the modification, so a
        file of the same size as the last one could run the last one's bytecode.
        """
        file.write_bytes(data)
        self._time += 1
        os.utime(file, (self._time, self._time))


def _not_copied(folder: str, names: list[str]) -> set[str]:
    """Caches, data, and the directory of temporary files, which may be in the project."""
    temporary = Path(tempfile.gettempdir()).resolve()
    return {name for name in names if name in NOT_CLONED or Path(folder, name).resolve() == temporary}
