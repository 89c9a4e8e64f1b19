"""gunicorn's settings, the same for `make run` and in production.

Everything that differs from place to place comes from the environment, through
`settings.py`: a fault there ends the process before a port is bound.
"""

import gc
from pathlib import Path
from signal import SIG_BLOCK, SIG_UNBLOCK, SIGTERM, pthread_sigmask

from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.workers.gasgi import ASGIWorker  # type: ignore[import-untyped]

from logs import GunicornLogger, configure
from settings import Settings

_settings = Settings.load()
configure(_settings.log_level)

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "asgi"
logger_class = GunicornLogger

# A worker's heartbeat is a file; in a container only memory is never slow.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108

# Seconds that an idle connection is kept. Longer would spare routers some new
# connections, but a stop has to wait for them: it takes this long at least.
keepalive = 10

# Heroku kills 30 s after SIGTERM: requests in flight get 25.
graceful_timeout = 25

# Otherwise gunicorn writes a socket under $HOME.
control_socket_disable = True

# Seconds between SIGTERM and the end of listening. gunicorn alone waits for any
# time from none to one, and resets connections that it has not accepted by then,
# with the requests that are already in them; and a router may send more until it
# knows of the stop.
_farewell = 1


def post_fork(arbiter: Arbiter, worker: ASGIWorker) -> None:
    """Keep a SIGTERM for later: a worker that is starting would lose it, and be killed at last."""
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
