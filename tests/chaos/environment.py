"""The servers that all scenarios share, and the routes from the service to its database."""

import fcntl
import itertools
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from tests.chaos.proxy import Proxy, proxy
from tests.chaos.servers import Pooler, Postgres, Redis, Web, binaries, platform_environment, release
from tests.environment import ROOT

TEMPORARY = "tasks-api-chaos-"


@dataclass
class Route:
    """How the service reaches its database, with the components that a fault can affect."""

    postgres: Postgres
    service: URL
    pooler: Pooler | None = None
    proxy: Proxy | None = None


class Environment:
    """PostgreSQL with the schema, PgBouncer and Redis; a service for each scenario."""

    def __init__(self, home: Path, stack: ExitStack, seed: str) -> None:
        self.home = home
        self.seed = seed
        self.random = random.Random(seed)
        self.binaries = binaries(home)
        self._count = itertools.count(1)
        self.postgres = self.new_postgres(stack)
        release(platform_environment(self.postgres.url, self.postgres.url, {}))
        self.pooler = Pooler(self.folder("pgbouncer"), self.postgres.url)
        self.redis = Redis(self.folder("redis"))
        for program in (self.pooler, self.redis):
            stack.callback(program.kill)
            program.start()

    def new_name(self, stem: str) -> str:
        """A unique name, so that scenarios do not share users."""
        return f"{stem.replace(' ', '-')}-{next(self._count)}"

    def folder(self, name: str) -> Path:
        return self.home / self.new_name(name)

    def new_postgres(self, stack: ExitStack, home: Path | None = None, *options: str) -> Postgres:
        postgres = Postgres.create(self.binaries, home or self.folder("postgres"), *options)
        stack.callback(postgres.kill)
        return postgres

    def restore(self) -> None:
        """Restart everything after a failed scenario."""
        for program in (self.postgres, self.pooler, self.redis):
            if program.running:
                program.thaw()
            else:
                program.start()
        self.postgres.wait_until_up()

    @contextmanager
    def web(self, route: Route, settings: Mapping[str, str], code: Path = ROOT) -> Iterator[Web]:
        """Start gunicorn and wait until it is ready."""
        environment = platform_environment(
            route.service, route.postgres.url, {"RATE_LIMIT_STORAGE_URL": self.redis.url, **settings}
        )
        web = Web(environment, self.folder("web"), code)
        try:
            web.start()
            web.wait_until_ready()
            yield web
        finally:
            web.kill()


@contextmanager
def environment(seed: str) -> Iterator[Environment]:
    _remove_leftovers()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=TEMPORARY)))
        lock = stack.enter_context((folder / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The servers may run as another user, who needs access.
        folder.chmod(0o755)
        yield Environment(folder, stack, seed)


def _remove_leftovers() -> None:
    """Remove the files and mounts of killed runs. Their servers have ended with them."""
    for path in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*/lock"):
        # Another run may be removing its files at the same time.
        with suppress(OSError), path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for disk in path.parent.glob("*/"):
                if disk.is_mount():
                    subprocess.run(["umount", "--lazy", str(disk)], check=False)
            shutil.rmtree(path.parent, ignore_errors=True)


MakeRoute = Callable[[Environment], AbstractContextManager[Route]]


@contextmanager
def direct(environment: Environment) -> Iterator[Route]:
    yield Route(environment.postgres, environment.postgres.url)


@contextmanager
def pooled(environment: Environment) -> Iterator[Route]:
    yield Route(environment.postgres, environment.pooler.url, environment.pooler)


@contextmanager
def proxied(environment: Environment) -> Iterator[Route]:
    """Through the TCP proxy to PgBouncer."""
    with proxy(environment.pooler.url, environment.seed) as tcp_proxy:
        yield Route(environment.postgres, tcp_proxy.url, environment.pooler, tcp_proxy)


@contextmanager
def own_server(environment: Environment, home: Path | None = None, *options: str) -> Iterator[Route]:
    """A separate PostgreSQL for one scenario, with the schema; `options` are initdb's."""
    with ExitStack() as stack:
        postgres = environment.new_postgres(stack, home, *options)
        release(platform_environment(postgres.url, postgres.url, {}))
        yield Route(postgres, postgres.url)
