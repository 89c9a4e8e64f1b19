"""Better Auth in its three set-ups, the API beside it, and two people."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

from tests.better_auth.server import BetterAuth, Person, better_auth
from tests.conftest import Route, Serve

SET_UPS = ("eddsa", "es256", "hs256")


@pytest.fixture(scope="session")
def route() -> Route:
    """Tokens are the same however the database is reached."""
    return lambda url: url


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[[str], BetterAuth]]:
    """Each set-up is started once, when it is first asked for."""
    with ExitStack() as stack:
        started: dict[str, BetterAuth] = {}

        def start(set_up: str) -> BetterAuth:
            if set_up not in started:
                started[set_up] = stack.enter_context(better_auth(set_up))
            return started[set_up]

        yield start


@pytest.fixture(params=SET_UPS)
def auth(request: pytest.FixtureRequest, running: Callable[[str], BetterAuth]) -> BetterAuth:
    """Better Auth with nothing changed by another test; the set-ups are the fixture's parameters."""
    server = running(request.param)
    server.deploy()
    return server


only = {
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
