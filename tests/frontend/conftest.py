"""The frontend as it is deployed: Better Auth and the page on one origin, the API on another."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import URL

from tests.better_auth.server import PASSWORD, BetterAuth, better_auth
from tests.environment import Sql, alembic, new_database
from tests.frontend.browser import Browser, Page, chromium
from tests.frontend.cutting_proxy import CuttingProxy
from tests.frontend.typescript import compiled, sources
from tests.process.service import Service, running_service, service_environment

RunApi = Callable[..., AbstractContextManager[Service]]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BetterAuth]:
    """The frontend's server."""
    folder = sources(tmp_path_factory.mktemp("site"), "page.ts", "index.html")
    assert compiled(folder) == ""
    with better_auth("eddsa", folder) as server:
        yield server


@pytest.fixture(scope="session")
def own_database(server_url: URL) -> Iterator[URL]:
    """One for the page's tests, to damage."""
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        yield url


@pytest.fixture
def damage(own_database: URL) -> Iterator[Sql]:
    sql = Sql(own_database)
    yield sql
    sql.close()


@pytest.fixture(scope="session")
def run_api(own_database: URL, site: BetterAuth, tmp_path_factory: pytest.TempPathFactory) -> RunApi:
    def run(**changes: str) -> AbstractContextManager[Service]:
        keys = {"BETTER_AUTH_SECRET": "", "BETTER_AUTH_URL": site.url, "CORS_ORIGINS": site.url}
        output: Path = tmp_path_factory.mktemp("api") / "output"
        return running_service(service_environment(own_database, **keys | changes), output)

    return run


@pytest.fixture(scope="session")
def api(run_api: RunApi) -> Iterator[Service]:
    with run_api() as service:
        yield service


@pytest.fixture(scope="session")
def narrow_api(run_api: RunApi, site: BetterAuth) -> Iterator[Service]:
    """With two requests for each user, and with a second origin."""
    with run_api(RATE_LIMIT_REQUESTS="2/hour", CORS_ORIGINS=f"{site.url},{elsewhere(site)}") as service:
        yield service


def elsewhere(site: BetterAuth) -> str:
    """The same page on an origin that is not the frontend's."""
    return site.url.replace("127.0.0.1", "localhost")


def page_for(browser: Browser, site_url: str, api: Service | CuttingProxy) -> Page:
    url = api.url if isinstance(api, CuttingProxy) else str(api.client.base_url).rstrip("/")
    return browser.open(f"{site_url}/?api={url}")


def signed_up(page: Page, name: str) -> Page:
    page.do("signUp", f"{name}-{uuid.uuid4().hex}@example.com", PASSWORD)
    return page


@pytest.fixture
def visitor(browser: Browser, site: BetterAuth, api: Service) -> Page:
    """The page before somebody who is not signed in."""
    site.deploy()
    return page_for(browser, site.url, api)


@pytest.fixture
def ann(visitor: Page) -> Page:
    """The page before somebody who has just signed up."""
    return signed_up(visitor, "ann")


@pytest.fixture
def bob(browser: Browser, site: BetterAuth, api: Service) -> Page:
    """The page before somebody else, in a browser of their own."""
    return signed_up(page_for(browser, site.url, api), "bob")
