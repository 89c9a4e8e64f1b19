"""The context of a fuzz run: users, tokens, a second worker, the database and the log.

Shared by the in-process run (`engine`) and the one over HTTP (`live`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import jwt
from requests import PreparedRequest, Response, Session
from sqlalchemy import URL

from tests.environment import Sql
from tests.fuzz.schema_coverage import SchemaCoverage
from tests.fuzz.signers import Signer, mint
from tests.support import ORIGIN, TASKS

DAY = 86_400
START_OF_2020 = 1_577_836_800_000_000
"""In microseconds since 1970."""
LOCK_SECONDS = 10
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_TASK = re.compile(rf"{TASKS}/({_UUID})(/[a-z]+)?(\?.*)?")

Row = dict[str, Any]


def task_id_in(path: str) -> UUID | None:
    """The task ID in a path, if it is well-formed."""
    found = _TASK.fullmatch(unquote(path))
    return UUID(found[1]) if found else None


@dataclass(frozen=True)
class User:
    id: str
    token: str


@dataclass(frozen=True)
class Worker:
    """A running service, over HTTP or in this process."""

    session: Session
    url: str

    def send(
        self, method: str, path: str, token: str | None, body: bytes | str | None, headers: Mapping[str, str]
    ) -> Response:
        given = {"Origin": ORIGIN, **headers}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        if body is not None:
            given.setdefault("Content-Type", "application/json")
        return self.session.request(method, f"{self.url}{path}", data=body, headers=given)


@dataclass(frozen=True)
class Feed:
    """The owner's feed, beside what it should say."""

    seq: int
    live_tasks: int
    last_position: int
    """The highest of all tasks."""
    counted_tasks: int
    """How many tasks are not deleted."""


@dataclass(frozen=True)
class Snapshot:
    """The owner's task and feed, and a fingerprint of all other rows, at one moment."""

    task: Row | None
    position: int | None
    """Of the task."""
    feed: Feed | None
    other_rows: str
    foreign_rows: str
    """A fingerprint of the rows of all other users."""


@dataclass
class FuzzContext:
    """`other_worker` is a second instance of the service, which is not fuzzed itself."""

    other_worker: Worker
    database: URL
    signer: Signer
    log: Path
    issued_at: int
    """When the tokens were issued, in Unix seconds."""
    owner: User = field(init=False)
    stranger: User = field(init=False)
    hoarder: User = field(init=False)
    """Has tasks whose pages exceed the bound on bytes."""
    invalid_tokens: dict[str, str | None] = field(init=False)
    """Tokens that must be rejected, by what is wrong with them."""
    reader: User = field(init=False)
    writer: User = field(init=False)
    """The owner with tokens limited to one scope."""
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    """Before and after each call, by case ID."""
    met: Counter[str] = field(default_factory=Counter)
    """How often each situation was met."""
    coverage: SchemaCoverage = field(default_factory=SchemaCoverage)
    calls: int = 0
    last_sent: PreparedRequest | None = None
    """To the other worker."""

    def __post_init__(self) -> None:
        self.owner, self.stranger, self.hoarder = (
            User(name, self.mint(name, iat=self.issued_at, exp=self.issued_at + DAY))
            for name in ("fuzz-owner", "fuzz-stranger", "fuzz-hoarder")
        )
        self.invalid_tokens = make_invalid_tokens(self.signer, self.owner, self.issued_at)
        self.reader, self.writer = (
            User(self.owner.id, self.mint(self.owner.id, scope=scope, exp=self.issued_at + DAY))
            for scope in ("tasks:read", "tasks:write")
        )
        self.sql = Sql(self.database)
        # A service that leaks a row lock must not block the run.
        self.sql(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        self._logged = 0

    def close(self) -> None:
        self.sql.close()
        self.other_worker.session.close()

    def mint(self, subject: str, **claims: object) -> str:
        """A token that is valid for one hour, unless `claims` has another `exp`."""
        return mint(self.signer, subject, **claims)

    def write_users(self, path: Path) -> None:
        """Write the credentials to which schemathesis.toml refers."""
        users = [
            {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {user.token}"}]}
            for name, user in (("owner", self.owner), ("stranger", self.stranger))
        ]
        path.write_text(json.dumps({"auth": users}))

    def is_from_owner(self, request: PreparedRequest) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.owner.token}"

    def user_id_of(self, request: PreparedRequest) -> str | None:
        """Whose token the request carries, if it is one user's own, not limited by a scope."""
        users = (self.owner, self.stranger, self.hoarder)
        sent = request.headers.get("Authorization")
        return next((user.id for user in users if sent == f"Bearer {user.token}"), None)

    def send(
        self, method: str, path: str, token: str | None, body: bytes | str | None = None, **headers: str
    ) -> Response:
        """Send a request to the other worker."""
        self.calls += 1
        response = self.other_worker.send(method, path, token, body, headers)
        self.last_sent = response.request
        return response

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Query as a superuser, to whom row security does not apply."""
        return self.sql(statement, *parameters)

    def now(self) -> int:
        """Unix seconds by the database's clock."""
        return int(self.query("SELECT extract(epoch FROM clock_timestamp())")[0][0])

    def any_task(self, *, of: User | None = None, deleted: bool = False) -> str:
        """The ID of a task, of the owner unless another user is given."""
        statement = "SELECT id::text FROM tasks WHERE user_id = %s AND (deleted_at IS NOT NULL) = %s LIMIT 1"
        return str(self.query(statement, (of or self.owner).id, deleted)[0][0])

    def ids(self, user: User) -> set[str]:
        """Of all tasks of the user, deleted or not."""
        return {task for (task,) in self.query("SELECT id::text FROM tasks WHERE user_id = %s", user.id)}

    def row(self, task: UUID, of: User | None = None) -> Row | None:
        """The stored row of the task of the owner, or of another user, even if deleted."""
        statement = (
            "SELECT to_jsonb(tasks) - '{seq,search_title,search_description}'::text[]"
            " FROM tasks WHERE user_id = %s AND id = %s"
        )
        found = self.query(statement, (of or self.owner).id, str(task))
        return found[0][0] if found else None

    def position(self, task: UUID) -> int | None:
        """Of the owner's task in the feed."""
        found = self.query("SELECT seq FROM tasks WHERE user_id = %s AND id = %s", self.owner.id, str(task))
        return found[0][0] if found else None

    def feed(self, of: User | None = None) -> Feed | None:
        """Of the owner unless another user is given."""
        found = self.query(
            "SELECT seq, live_tasks, (SELECT max(seq) FROM tasks WHERE user_id = feeds.user_id),"
            " (SELECT count(*) FROM tasks WHERE user_id = feeds.user_id AND deleted_at IS NULL)"
            " FROM feeds WHERE user_id = %s",
            (of or self.owner).id,
        )
        return Feed(*found[0]) if found else None

    def fingerprint(self, *, of: User | None = None) -> str:
        """Changes with every write to the rows of this user, or of all users.

        Based on xmin, the ID of the transaction that last wrote a row.
        """
        user_id = of and of.id
        return str(
            self.query(
                "SELECT count(*), sum(xmin::text::bigint) FROM tasks WHERE user_id = coalesce(%s, user_id)"
                " UNION ALL"
                " SELECT count(*), sum(xmin::text::bigint) FROM feeds WHERE user_id = coalesce(%s, user_id)"
                " UNION ALL"
                " SELECT count(*), sum(xmin::text::bigint) FROM idempotency_keys"
                " WHERE user_id = coalesce(%s, user_id)",
                user_id,
                user_id,
                user_id,
            )
        )

    def _other_rows(self, task: UUID | None) -> str:
        """Like the fingerprint of all users, without this task and the feed of the owner."""
        return str(
            self.query(
                "SELECT count(*), sum(xmin::text::bigint) FROM tasks"
                " WHERE (user_id, id::text) <> (%s, coalesce(%s, ''))"
                " UNION ALL SELECT count(*), sum(xmin::text::bigint) FROM feeds WHERE user_id <> %s",
                self.owner.id,
                task and str(task),
                self.owner.id,
            )
        )

    def _foreign_rows(self) -> str:
        return str(
            self.query(
                "SELECT count(*), sum(xmin::text::bigint) FROM tasks WHERE user_id <> %s"
                " UNION ALL SELECT count(*), sum(xmin::text::bigint) FROM feeds WHERE user_id <> %s",
                self.owner.id,
                self.owner.id,
            )
        )

    def snapshot(self, task: UUID | None) -> Snapshot:
        row, position = (self.row(task), self.position(task)) if task else (None, None)
        return Snapshot(row, position, self.feed(), self._other_rows(task), self._foreign_rows())

    @contextmanager
    def without_row_security(self) -> Iterator[None]:
        """Disable row security, so that only the statements isolate users."""
        enabled = self.query("SELECT relrowsecurity FROM pg_class WHERE oid = 'tasks'::regclass") == [(True,)]
        self.query("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY")
        try:
            yield
        finally:
            if enabled:
                self.query("ALTER TABLE tasks ENABLE ROW LEVEL SECURITY")

    def rows_visible_to_stranger(self) -> int:
        """How many of the owner's rows the requests' role can see as the stranger."""
        statement = (
            "SELECT set_config('role', 'tasks_api', true), set_config('app.user_id', %s, true);"
            " SELECT count(*) FROM tasks WHERE user_id = %s"
        )
        return int(self.query(statement, self.stranger.id, self.owner.id)[0][0])

    def read_new_log(self) -> str:
        """The log since the last call."""
        with self.log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._logged)
            text = file.read()
            self._logged = file.tell()
        return text

    def secrets(self) -> list[str]:
        """Values that must not appear in responses or logs."""
        users = (self.owner, self.stranger, self.hoarder, self.reader, self.writer)
        tokens = [*(user.token for user in users), *filter(None, self.invalid_tokens.values())]
        signatures = (token.rpartition(".")[2] for token in tokens)
        return [*self.signer.secrets, *filter(None, (self.database.password, *signatures))]


def make_invalid_tokens(signer: Signer, owner: User, now: int) -> dict[str, str | None]:
    bare: dict[str, object] = {"iat": now, "exp": now + DAY}
    claims = {**bare, "sub": owner.id}
    return {
        "no token": None,
        "a token without exp": signer.sign({"sub": owner.id}),
        "a token of tomorrow": mint(signer, owner.id, nbf=now + DAY, exp=now + 2 * DAY),
        "a truncated token": owner.token[:-4],
        "a re-signed token": mint(signer.impostor(), owner.id),
        "an expired token": mint(signer, owner.id, iat=now - 7200, exp=now - 3600),
        "a foreign token": mint(signer, owner.id, aud="better-auth:session-cache"),
        "an unsigned token": jwt.encode(claims, "", "none"),
        "the token of an e-mail link": signer.sign({**bare, "userId": owner.id, "email": owner.id}),
        **dict(signer.forgeries(claims)),
    }
