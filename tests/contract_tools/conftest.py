"""The service as other people's tools reach it: gunicorn, over HTTP."""

from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from tests.process.service import Service, running_service, service_environment


@pytest.fixture(scope="session")
def api(database_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(
        service_environment(database_url), tmp_path_factory.mktemp("contract_tools") / "output"
    ) as service:
        yield service
