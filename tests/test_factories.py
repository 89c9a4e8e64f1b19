"""The factories of request bodies."""

from collections.abc import Callable

import pytest

from tests.factories import full_task, new_task, task_patch


@pytest.mark.parametrize("factory", [new_task, full_task, task_patch])
def test_factories_reject_unknown_fields(factory: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="has no done"):
        factory(done=True)
