"""`make fuzz`: the contract fuzz over HTTP, against gunicorn as the Procfile starts it.

Runs the probes, then the set-ups, then the probes again with published keys, with one worker,
through PgBouncer, where it is installed, and with the rate limits in Redis, and last Schemathesis.

BUDGET is the time for Schemathesis in seconds, SEED repeats its requests. ONLY runs a few probes or
set-ups instead, see `one`. The reports are in build/fuzz/. The checks send their own requests to a
second service on the same database.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from httpx2 import Client
from requests import Session
from sqlalchemy import URL, make_url

from tests.auth.key_server import SigningKey, key_server
from tests.chaos.servers import running_redis
from tests.environment import MISSING, NO_LIMIT, find_program, libpq_url, new_database
from tests.fuzz import checks, one, probes, setups, situations
from tests.fuzz.context import FuzzContext, Worker
from tests.fuzz.lab import Service
from tests.fuzz.prober import PROBES
from tests.fuzz.signers import PublishedKey, SharedSecret
from tests.fuzz.situations import SITUATIONS
from tests.not_run import POOLER
from tests.pooler import pooler
from tests.process.service import running_service
from tests.support import ORIGIN
from tools import postgres, serve

REPORTS = Path("build/fuzz")
CONTRACT = "specs/openapi.json"
HOOKS = "tests.fuzz.hooks"
CONTEXT_VARIABLE = "FUZZ_CONTEXT"
"""The environment variable that passes the context to the Schemathesis process."""


def main() -> int:
    serve.end_on_signals()
    if only := os.environ.get("ONLY"):
        return one.main(only)
    shutil.rmtree(REPORTS, ignore_errors=True)
    (REPORTS / "set-ups").mkdir(parents=True)
    try:
        budget = _budget()
        with postgres.temporary_server() as url:
            given = _environment(url)
            other = {**given, "PORT": str(postgres.free_port())}
            log = REPORTS / "service.log"
            with serve.service(given, log=log), serve.service(other, log=REPORTS / "another.log"):
                return _fuzz(
                    serve.base_url(given), _context_values(given, serve.base_url(other), log), budget
                )
    except postgres.Failure as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        return 130


def use_context_from_environment() -> None:
    """In the Schemathesis process: use the context that `main` created."""
    given = json.loads(os.environ[CONTEXT_VARIABLE])
    checks.use_context(open_context(given))


def open_context(given: dict[str, str]) -> FuzzContext:
    return FuzzContext(
        Worker(Session(), given["other_worker"]),
        make_url(given["database"]),
        SharedSecret(given["secret"]),
        Path(given["log"]),
        int(given["issued_at"]),
    )


def _budget() -> str:
    budget = os.environ.get("BUDGET") or "60"
    if not re.fullmatch(r"[1-9][0-9]{0,5}", budget):
        raise postgres.Failure("BUDGET is a number of seconds, such as: make fuzz BUDGET=600")
    return budget


def _environment(url: URL) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "DATABASE_URL": libpq_url(url),
        "BETTER_AUTH_SECRET": secrets.token_hex(32),
        "CORS_ORIGINS": ORIGIN,
        "HOST": "127.0.0.1",
        "PORT": str(postgres.free_port()),
        "RATE_LIMIT_REQUESTS": NO_LIMIT,
        "RATE_LIMIT_AUTH_FAILURES": NO_LIMIT,
    }


def _context_values(service: dict[str, str], other_worker: str, log: Path) -> dict[str, str]:
    return {
        "other_worker": other_worker,
        "database": service["DATABASE_URL"],
        "secret": service["BETTER_AUTH_SECRET"],
        "log": str(log),
        "issued_at": str(int(time.time())),
    }


def _fuzz(base_url: str, given: dict[str, str], budget: str) -> int:
    failures = _probe(base_url, given)
    seed = os.environ.get("SEED") or str(secrets.randbits(64))
    arguments = [
        f"--url={base_url}",
        f"--max-time={budget}",
        f"--seed={seed}",
        "--continue-on-failure",
        "--report=junit,html",
        f"--report-dir={REPORTS}",
        f"--report-junit-path={REPORTS / 'junit.xml'}",
        f"--report-html-path={REPORTS / 'html'}",
        "--no-color",
    ]
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", CONTRACT, *arguments]
    variables = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, CONTEXT_VARIABLE: json.dumps(given)}
    done = subprocess.run(command, env=variables, check=False)
    print(
        f"\nProbes and set-ups: {len(SITUATIONS) - len(checks.RANDOM)} situations, {len(failures)} failures"
    )
    print("\n".join(failures))
    print(f"\nThe report: {REPORTS / 'html'}. To repeat the run: make fuzz BUDGET={budget} SEED={seed}")
    return done.returncode or min(len(failures), 1)


def _probe(base_url: str, given: dict[str, str]) -> list[str]:
    """Run the probes and the set-ups; the failures, with the situations that were met too rarely."""
    context = open_context(given)
    context.write_users(REPORTS / "auth.json")
    with Client(base_url=base_url, timeout=30) as client:
        failures = probes.run(context, client)
    with TemporaryDirectory() as folder:
        failures += setups.run(setups.Lab(context, Path(folder), _start, given["secret"]))
    context.close()
    failures += _probe_with_other_servers(make_url(given["database"]))
    systematic = [each for each in SITUATIONS.values() if each not in checks.RANDOM]
    (REPORTS / "situations.md").write_text(situations.report(context.met, systematic) + "\n")
    (REPORTS / "coverage.md").write_text(context.coverage.report() + "\n")
    return [*failures, *situations.unmet(context.met, systematic), *context.coverage.unreached()]


def _probe_with_other_servers(server: URL) -> list[str]:
    """Run the probes on a new database, with published keys, PgBouncer if it is installed, and Redis."""
    with ExitStack() as stack:
        database = stack.enter_context(new_database(server))
        folder = Path(stack.enter_context(TemporaryDirectory()))
        redis = stack.enter_context(running_redis(folder))
        published, key = stack.enter_context(key_server()), SigningKey("fuzz")
        published.keys = [key.jwk]
        route = database
        if program := find_program(POOLER):
            pooled = stack.enter_context(pooler(program, server))
            route = database.set(host=pooled.host, port=pooled.port)
        else:
            print(f"\nNot through PgBouncer: {MISSING.format(program=POOLER)}")
        environment = {
            **_environment(route),
            "BETTER_AUTH_SECRET": "",
            "BETTER_AUTH_URL": published.url,
            "DATABASE_URL_UNPOOLED": libpq_url(database),
            "RATE_LIMIT_STORAGE_URL": redis.url,
            "WEB_CONCURRENCY": "1",
        }
        log = REPORTS / "pooled.log"
        stack.enter_context(serve.service(environment, log=log))
        base_url = serve.base_url(environment)
        worker, signer = Worker(Session(), base_url), PublishedKey(key, published.url)
        context = FuzzContext(worker, database, signer, log, int(time.time()))
        client = stack.enter_context(Client(base_url=base_url, timeout=30))
        failures = probes.run(context, client)
        context.close()
    return [*failures, *situations.unmet(context.met, [SITUATIONS[name] for name in PROBES])]


@contextmanager
def _start(environment: dict[str, str]) -> Iterator[Service]:
    """Start gunicorn for a set-up, without the migrations."""
    given = {"PATH": os.environ.get("PATH", os.defpath), "HOST": "127.0.0.1", **environment}
    given["PORT"] = str(postgres.free_port())
    log = REPORTS / f"set-ups/{given['PORT']}.log"
    with running_service(given, log.absolute()) as service:
        yield Service(service.client, log)


if __name__ == "__main__":
    sys.exit(main())
