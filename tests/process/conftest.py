"""What the tests of the process share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.clone import copy_project


@pytest.fixture
def clone() -> Iterator[Path]:
    """The project as it is when it is fresh: no secret, no data.

    Not in pytest's own folder, which each run closes to other users.
    """
    with tempfile.TemporaryDirectory(prefix="tasks-api-clone-", ignore_cleanup_errors=True) as folder:
        yield copy_project(Path(folder))
