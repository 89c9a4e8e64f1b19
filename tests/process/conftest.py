"""What the tests of the process share."""

from pathlib import Path

import pytest

from tests.process.clone import copy_to


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project as it is when it is fresh: no secret, no data."""
    return copy_to(tmp_path)
