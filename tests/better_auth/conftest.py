"""Better Auth in three configurations, the API, and two users."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from tests.better_auth.server import BetterAuth, Person, better_auth
from tests.conftest import Route, Serve

CONFIGURATIONS = ("eddsa", "es256", "hs256")


@pytest.fixture(scope="session")
def route() -> Route:
    """Direct only: the database route does not affect tokens."""
    return lambda url: url


@pytest.fixture(scope="session")
def start_better_auth() -> Iterator[Callable[[str], BetterAuth]]:
    """Starts each configuration once, on first use."""
    with ExitStack() as stack:
        started: dict[str, BetterAuth] = {}

        def start(configuration: str) -> BetterAuth:
            if configuration not in started:
                started[configuration] = stack.enter_context(better_auth(configuration))
            return started[configuration]

        yield start


@pytest.fixture(params=CONFIGURATIONS)
def auth(request: pytest.FixtureRequest, start_better_auth: Callable[[str], BetterAuth]) -> BetterAuth:
    """Better Auth with default options, in each configuration."""
    server = start_better_auth(request.param)
    server.deploy()
    return server


only_with = {
    "published keys": pytest.mark.parametrize("auth", ["eddsa", "es256"], indirect=True),
    "shared secret": pytest.mark.parametrize("auth", ["hs256"], indirect=True),
}


@pytest.fixture
def api(serve: Serve, auth: BetterAuth) -> TestClient:
    return serve(**auth.key_source())


@pytest.fixture
def ann(auth: BetterAuth) -> Iterator[Person]:
    person = Person(auth, "Ann")
    yield person
    person.browser.close()


@pytest.fixture
def bob(auth: BetterAuth) -> Iterator[Person]:
    person = Person(auth, "Bob")
    yield person
    person.browser.close()
