"""gunicorn configuration, used both by `make run` and in production.

Deployment-specific values come from the environment through `settings.py`, which ends
the process with an error message before the port is bound if a value is invalid.
"""

import gc
import os
import resource
import socket
import tempfile
from pathlib import Path
from signal import SIG_BLOCK, SIG_UNBLOCK, SIGTERM, pthread_sigmask

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.workers.gasgi import ASGIWorker  # type: ignore[import-untyped]

from observability.logs import GunicornLogger, configure
from settings import Settings

_settings = Settings.load()
configure(_settings.log_level)

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "web.connections.BoundedWorker"
logger_class = GunicornLogger

# Do not use gunicorn_h1c, which gunicorn would select automatically if it is installed:
# specs/decisions/0013-http-parser.md
http_parser = "python"


def heartbeat_folder(folder: Path) -> str | None:
    """`folder` if it is writable, otherwise None, which selects gunicorn's default.

    A worker's heartbeat is a file. Updating it must not block on disk I/O, so it belongs on
    tmpfs. A minimal container may have no /dev/shm, or a read-only one.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        return None


worker_tmp_dir = heartbeat_folder(Path("/dev/shm"))  # noqa: S108

# Seconds that a connection may stay idle, and that the headers of a request may take to
# arrive. A longer timeout would save routers some reconnects, but a graceful shutdown
# waits for idle connections, so it would also take longer.
keepalive = 10

# Per worker. The reserved file descriptors are for files, the database and Redis.
_RESERVED_DESCRIPTORS = 128
worker_connections = min(1000, max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _RESERVED_DESCRIPTORS))

# Milliseconds after which the kernel closes a connection whose peer acknowledges no data,
# or reads no more of a response. Also applies to data that is still in the kernel's send
# buffer after close().
_TCP_USER_TIMEOUT = 10_000

# Heroku sends SIGKILL 30 s after SIGTERM, so requests in flight get 25 s.
graceful_timeout = 25

# By default gunicorn creates a control socket under $HOME.
control_socket_disable = True

# Defaults for OpenTelemetry's own variables, inherited by the workers. With its default
# export timeout of 10 s, shutdown took 25 s while the collector was unreachable.
os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
os.environ.setdefault("OTEL_SERVICE_NAME", "tasks-api")

# Seconds between SIGTERM and closing the listening socket. By default gunicorn closes it
# within 0 to 1 s and resets connections in the accept queue, including requests already
# sent on them. A router may also send requests until it notices the shutdown.
DRAIN_SECONDS = 1


def when_ready(arbiter: Arbiter) -> None:
    """Set TCP_USER_TIMEOUT, which accepted connections inherit. macOS does not support it."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    for listener in arbiter.LISTENERS:
        if option is not None and listener.sock.family in {socket.AF_INET, socket.AF_INET6}:
            listener.sock.setsockopt(socket.IPPROTO_TCP, option, _TCP_USER_TIMEOUT)


def post_fork(arbiter: Arbiter, worker: ASGIWorker) -> None:
    """Block SIGTERM during start-up: gunicorn would drop it and SIGKILL the worker later."""
    pthread_sigmask(SIG_BLOCK, {SIGTERM})


def _begin_to_stop(worker: ASGIWorker) -> None:
    """Schedule the stop, and end the requests that wait for changes, which could outlast it."""
    worker.loop.call_later(DRAIN_SECONDS, worker.handle_exit_signal)
    # Absent until the application has started.
    waiting_room = getattr(worker.app.wsgi().state, "waiting_room", None)
    if waiting_room is not None:
        waiting_room.end()


def post_worker_init(worker: ASGIWorker) -> None:
    """Unblock SIGTERM once the event loop runs, and keep serving for DRAIN_SECONDS after it.

    `gc.freeze()` excludes all objects created so far from garbage collection: scanning
    them took about 10 % of the time of a get.
    """
    gc.freeze()
    loop = worker.loop
    loop.add_signal_handler(SIGTERM, _begin_to_stop, worker)
    loop.call_soon(pthread_sigmask, SIG_UNBLOCK, {SIGTERM})
