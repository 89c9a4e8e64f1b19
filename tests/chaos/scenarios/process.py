"""Killed workers and graceful shutdown."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.environment import pooled
from tests.chaos.program import signal_all
from tests.chaos.runner import Run, Scenario

STOP_SECONDS = 12.0
STILL_LISTENING = 0.5
"""Seconds after SIGTERM in which every request must get a response: half of gunicorn.conf.py's delay."""


@contextmanager
def one_worker_killed(run: Run) -> Iterator[None]:
    for _ in range(4):
        signal_all(run.web.children[:1], signal.SIGKILL)
        run.sleep(0.7)
    yield


@contextmanager
def all_workers_killed(run: Run) -> Iterator[None]:
    signal_all(run.web.children, signal.SIGKILL)
    yield


@contextmanager
def stop_while_the_router_sends(run: Run) -> Iterator[None]:
    stopped_at = _stop(run)
    written_before = stopped_at + STILL_LISTENING
    unanswered = [
        each for each in run.load.history if each.status is None and each.started_at < written_before
    ]
    run.expect(not unanswered, f"{len(unanswered)} requests in flight were not answered")
    _start_again(run)
    yield


@contextmanager
def stop_without_new_requests(run: Run) -> Iterator[None]:
    run.load.pause()
    _stop(run)
    unanswered = [each for each in run.load.history if each.status is None]
    run.expect(not unanswered, f"{len(unanswered)} requests in flight were not answered")
    run.load.resume()
    _start_again(run)
    yield


def _stop(run: Run) -> float:
    """Stop as a platform does: SIGTERM to every process."""
    stopped_at = time.monotonic()
    signal_all(run.web.children, signal.SIGTERM)
    status = run.web.stop(signal.SIGTERM, STOP_SECONDS)
    run.notes.append(f"stopped within {time.monotonic() - stopped_at:.1f} s")
    run.expect(status == 0, f"exit status {status}; None: not ended within {STOP_SECONDS:.0f} s")
    return stopped_at


def _start_again(run: Run) -> None:
    run.web.start()
    run.web.wait_until_ready()


SCENARIOS = [
    Scenario("worker killed", one_worker_killed, pooled),
    Scenario("all workers killed", all_workers_killed, pooled),
    Scenario("graceful stop, router sends", stop_while_the_router_sends, pooled),
    Scenario("graceful stop, router stops", stop_without_new_requests, pooled),
]
