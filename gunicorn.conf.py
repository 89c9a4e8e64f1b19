"""gunicorn's settings, the same for `make run` and in production.

Everything that differs from place to place comes from the environment, through
`settings.py`: a fault there ends the process before a port is bound.
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

# Not gunicorn_h1c, which gunicorn would pick up where it is installed:
# specs/decisions/0013-http-parser.md
http_parser = "python"


def heartbeat_folder(folder: Path) -> str | None:
    """`folder` when files can be made there, else None for gunicorn's own choice.

    A worker's heartbeat is a file, and writes to it must not block, so it belongs in
    memory. A minimal container may have no /dev/shm, or one that is read-only.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        return None


worker_tmp_dir = heartbeat_folder(Path("/dev/shm"))  # noqa: S108

# Seconds that a connection may wait for a request, and a request's headers may
# take. Longer would spare routers some new connections, but a stop waits for idle
# connections: it takes this long at least.
keepalive = 10

# Per worker. The remaining descriptors are for files, the database and Redis.
_SPARE_DESCRIPTORS = 128
worker_connections = min(1000, max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS))

# Milliseconds after which the kernel ends a connection whose peer acknowledges
# nothing, or reads nothing of an answer. It also applies to data that is still in the
# kernel's send buffer after close().
_UNREAD_TIMEOUT = 10_000

# Heroku kills 30 s after SIGTERM: requests in flight get 25.
graceful_timeout = 25

# Otherwise gunicorn writes a socket under $HOME.
control_socket_disable = True

# Defaults for OpenTelemetry's own variables, inherited by the workers. With its 10 s for an
# export, stopping took 25 s while the collector was away.
os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
os.environ.setdefault("OTEL_SERVICE_NAME", "tasks-api")

# Seconds between SIGTERM and the end of listening. gunicorn alone waits for any
# time from none to one, and resets connections that it has not accepted by then,
# with the requests that are already in them; and a router may send more until it
# knows of the stop.
_farewell = 1


def when_ready(arbiter: Arbiter) -> None:
    """Accepted connections inherit the option from the listening socket; macOS has none such."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    for listener in arbiter.LISTENERS:
        if option is not None and listener.sock.family in {socket.AF_INET, socket.AF_INET6}:
            listener.sock.setsockopt(socket.IPPROTO_TCP, option, _UNREAD_TIMEOUT)


def post_fork(arbiter: Arbiter, worker: ASGIWorker) -> None:
    """Block SIGTERM during start-up: gunicorn would drop it and SIGKILL the worker later."""
    pthread_sigmask(SIG_BLOCK, {SIGTERM})


def post_worker_init(worker: ASGIWorker) -> None:
    """Heed SIGTERM once the loop runs, and then go on serving for a moment.

    What was imported and set up stays for good: the collector need not go
    through it again and again, which took a tenth of a get.
    """
    gc.freeze()
    loop = worker.loop
    loop.add_signal_handler(SIGTERM, loop.call_later, _farewell, worker.handle_exit_signal)
    loop.call_soon(pthread_sigmask, SIG_UNBLOCK, {SIGTERM})
