"""Fixtures of the process tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.clone import copy_project


@pytest.fixture
def clone() -> Iterator[Path]:
    """A clean copy of the project.

    Not in pytest's tmp_path, which other users cannot access.
    """
    with tempfile.TemporaryDirectory(prefix="tasks-api-clone-", ignore_cleanup_errors=True) as folder:
        yield copy_project(Path(folder))
