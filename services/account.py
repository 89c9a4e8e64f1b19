"""Everything that belongs to one user: erasing it, and reading all of it. No HTTP here."""

from functools import cache
from uuid import UUID

from sqlalchemy import Executable, Integer, Uuid, bindparam, func, literal_column, select

from database.session import UserSession
from models import TASKS
from schemas import TaskRead
from services.lists import without_excess
from services.tasks import CALLER, COLUMNS

ERASED_AT_ONCE = 20_000
"""Tasks that one call of `erase` deletes in its transaction."""

EXPORTED_AT_ONCE = 100
"""Tasks that one call of `export_tasks` reads at most."""

_ERASE = select(func.erase_account(CALLER, literal_column(str(ERASED_AT_ONCE), Integer))).execution_options(
    prepare="erase_account"
)


def erase(session: UserSession, caller: str) -> bool:
    """Delete the caller's rows in every table for good. Returns False if there are more tasks.

    Requests may delete nothing themselves; migration 0006 has the function that does. After a
    call that returned False, positions of the feed from before are no longer valid either.
    """
    [(done,)] = session.write(_ERASE, {"caller": caller})
    return bool(done)


def export_tasks(session: UserSession, caller: str, after: UUID | None) -> list[TaskRead]:
    """The caller's next tasks after this ID, in the order of their IDs, deleted or not.

    There are more if these are EXPORTED_AT_ONCE, or if their JSON exceeds PAGE_BYTES: then some
    were left out, as in `lists.list_tasks`.
    """
    rows = session.ordered_rows(_next_tasks(after is not None), {"caller": caller, "after": after})
    return [TaskRead(*row) for row in rows]


@cache
def _next_tasks(continued: bool) -> Executable:
    tasks = select(*COLUMNS).where(TASKS.c.user_id == CALLER).order_by(TASKS.c.id)
    if continued:
        tasks = tasks.where(TASKS.c.id > bindparam("after", type_=Uuid))
    limited = without_excess(tasks.limit(literal_column(str(EXPORTED_AT_ONCE), Integer)), [TASKS.c.id])
    return limited.execution_options(prepare="export_tasks")
