"""The same API written the way a good FastAPI and SQLModel tutorial writes it.

Sync endpoints, a session dependency with `yield`, HTTPBearer, PyJWT, a connection pool
with pre-ping, `add`, `commit` and `refresh`, on the same table as the service.
"""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

import jwt
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import create_engine, make_url
from sqlmodel import Session, SQLModel, col, select

from models import Priority, Task
from schemas import TaskCreate, TaskReplace, TaskUpdate

engine = create_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg2"),
    pool_size=5,
    max_overflow=10,
    pool_pre_ping=True,
)
app = FastAPI()
bearer = HTTPBearer()


class TaskPublic(SQLModel):
    id: UUID
    user_id: str
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    priority: Priority
    due_at: datetime | None
    tags: list[str]
    version: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def get_current_user(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
    try:
        claims = jwt.decode(
            credentials.credentials,
            os.environ["BETTER_AUTH_SECRET"],
            algorithms=["HS256"],
            options={"require": ["exp", "sub"]},
        )
    except jwt.InvalidTokenError:
        raise HTTPException(401, "Invalid token", {"WWW-Authenticate": "Bearer"}) from None
    return str(claims["sub"])


SessionDep = Annotated[Session, Depends(get_session)]
CurrentUser = Annotated[str, Depends(get_current_user)]


def get_own_task(session: Session, user_id: str, task_id: UUID) -> Task:
    task = session.exec(
        select(Task).where(Task.user_id == user_id, Task.id == task_id, col(Task.deleted_at).is_(None))
    ).first()
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


@app.get("/api/tasks", response_model=list[TaskPublic])
def list_tasks(
    user_id: CurrentUser, session: SessionDep, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[Task]:
    statement = (
        select(Task)
        .where(Task.user_id == user_id, col(Task.deleted_at).is_(None))
        .order_by(col(Task.id).desc())
        .limit(limit)
    )
    return list(session.exec(statement).all())


@app.post("/api/tasks", response_model=TaskPublic, status_code=201)
def create_task(task: TaskCreate, user_id: CurrentUser, session: SessionDep) -> Task:
    now = datetime.now(UTC)
    row = Task(
        **task.model_dump(),
        id=uuid4(),
        user_id=user_id,
        completed_at=now if task.completed else None,
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    session.commit()
    session.refresh(row)
    return row


@app.get("/api/tasks/{task_id}", response_model=TaskPublic)
def get_task(task_id: UUID, user_id: CurrentUser, session: SessionDep) -> Task:
    return get_own_task(session, user_id, task_id)


@app.put("/api/tasks/{task_id}", response_model=TaskPublic)
def replace_task(task_id: UUID, replacement: TaskReplace, user_id: CurrentUser, session: SessionDep) -> Task:
    return save(session, get_own_task(session, user_id, task_id), replacement.model_dump())


@app.patch("/api/tasks/{task_id}", response_model=TaskPublic)
def update_task(task_id: UUID, changes: TaskUpdate, user_id: CurrentUser, session: SessionDep) -> Task:
    return save(session, get_own_task(session, user_id, task_id), changes.model_dump(exclude_unset=True))


def save(session: Session, task: Task, values: dict[str, object]) -> Task:
    task.sqlmodel_update(values)
    now = datetime.now(UTC)
    task.completed_at = (task.completed_at or now) if task.completed else None
    task.updated_at = now
    task.version += 1
    session.add(task)
    session.commit()
    session.refresh(task)
    return task


@app.delete("/api/tasks/{task_id}", status_code=204)
def delete_task(task_id: UUID, user_id: CurrentUser, session: SessionDep) -> Response:
    task = get_own_task(session, user_id, task_id)
    task.deleted_at = datetime.now(UTC)
    session.add(task)
    session.commit()
    return Response(status_code=204)


@app.get("/health/ready")
def ready() -> dict[str, str]:
    return {"status": "ready"}
