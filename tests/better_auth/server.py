"""A real Better Auth server, and users who sign in through its HTTP API."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from starlette.testclient import TestClient

from tests.node import install_packages, node_process
from tests.support import Caller

HERE = Path(__file__).parent
PASSWORD = "correct horse battery staple"
SECRET = "the secret that Better Auth and the API share"


class BetterAuth:
    """A running Better Auth; `configuration` is eddsa, es256 or hs256."""

    def __init__(self, url: str, configuration: str) -> None:
        self.url = url
        self.configuration = configuration
        self._test = httpx2.Client(base_url=f"{url}/test")

    def deploy(self, **options: object) -> None:
        """Redeploy with the same users and other options; see server.mjs."""
        self._test.put("/options", json={"secret": SECRET, **options}).raise_for_status()

    def expire_keys(self) -> None:
        self._test.post("/expire-keys").raise_for_status()

    def mailed_token(self, email: str) -> str:
        return str(self._test.get("/mails").json()[email])

    def key_source(self) -> dict[str, object]:
        """The service settings that the README documents for this configuration."""
        if self.configuration == "hs256":
            return {"better_auth_secret": SECRET, "jwt_audience": self.url}
        return {"better_auth_secret": None, "better_auth_url": self.url}

    def close(self) -> None:
        self._test.close()


@contextmanager
def better_auth(configuration: str, *pages: Path) -> Iterator[BetterAuth]:
    with node_process(install_packages(HERE) / "server.mjs", configuration, *pages) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "Better Auth did not start; its standard error says why"
        auth = BetterAuth(url, configuration)
        try:
            auth.deploy()
            yield auth
        finally:
            auth.close()


class Person:
    """A user with a browser: a cookie jar and the frontend's Origin."""

    def __init__(self, auth: BetterAuth, name: str) -> None:
        self.email = f"{name.lower()}-{uuid.uuid4().hex}@example.com"
        self.browser = httpx2.Client(base_url=f"{auth.url}/api/auth", headers={"Origin": auth.url})
        signed_up = self._post_credentials("/sign-up/email", name=name)
        self.id: str = signed_up["user"]["id"]

    def _post_credentials(self, path: str, **fields: str) -> dict[str, dict[str, str]]:
        answer = self.browser.post(path, json={"email": self.email, "password": PASSWORD, **fields})
        found: dict[str, dict[str, str]] = answer.raise_for_status().json()
        return found

    def sign_in(self) -> None:
        assert self._post_credentials("/sign-in/email")["user"]["id"] == self.id

    def sign_out(self) -> None:
        self.browser.post("/sign-out", json={}).raise_for_status()

    def token(self) -> str:
        return str(self.browser.get("/token").raise_for_status().json()["token"])

    def on(self, api: TestClient, token: str | None = None) -> Caller:
        """An API caller with this user's token; fetches a new token unless one is given."""
        return Caller(api, self.id, token or self.token())
