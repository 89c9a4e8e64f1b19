"""Runs one probe or set-up of the contract fuzz, without the rest."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL
from starlette.testclient import TestClient

from main import create_app
from tests.environment import make_settings
from tests.fuzz import checks, engine, probes, setups
from tests.fuzz.context import FuzzContext
from tests.fuzz.lab import SET_UPS
from tests.fuzz.prober import PROBES

T = TypeVar("T")


def run_situation(name: str, database: URL, folder: Path) -> list[str]:
    """The failures of this probe or set-up. The database gets the usual tasks before a probe."""
    secret = secrets.token_hex(32)
    app = create_app(make_settings(database, better_auth_secret=secret))
    with engine._logged(folder / "situation.log") as log, engine._worker(app) as other_worker:
        context = FuzzContext(other_worker, database, secret, log, int(time.time()))
        checks.use_context(context)
        try:
            if name in SET_UPS:
                with _only(name, SET_UPS):
                    lab = setups.Lab(context, folder, partial(engine._start, log))
                    return setups.run(lab, stop_at_first=True)
            with _only(name, PROBES), TestClient(app, raise_server_exceptions=False) as client:
                return probes.run(context, client, stop_at_first=True)
        finally:
            context.close()


@contextmanager
def _only(name: str, situations: dict[str, Callable[[T], None]]) -> Iterator[None]:
    before = dict(situations)
    chosen = {each: before[each] for each in before if each == name}
    situations.clear()
    situations.update(chosen)
    try:
        yield
    finally:
        situations.update(before)
