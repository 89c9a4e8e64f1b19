"""Query parameters and path parameters, as strict as bodies are."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import Path, Query, Request
from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from problems import INVALID_REQUEST, ProblemError, ProblemItem

DEFAULT_LIMIT, MAXIMUM_LIMIT = 50, 200

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")


def check_names(request: Request, *names: str) -> None:
    """Refuse any other query parameter, and one given twice."""
    if not request.scope["query_string"]:
        return
    given = [name for name, _ in request.query_params.multi_items()]
    items = []
    if not set(given) <= set(names):
        known = f"known are: {', '.join(names)}" if names else "this operation takes none"
        items.append(ProblemItem(detail=f"There is an unknown query parameter; {known}.", parameter=""))
    items += [
        ProblemItem(detail="The parameter is given more than once.", parameter=name)
        for name in names
        if given.count(name) > 1
    ]
    if items:
        raise ProblemError(INVALID_REQUEST, "The query breaks a rule; see errors.", errors=items)


def _boolean(value: object) -> object:
    if value not in ("true", "false"):
        raise PydanticCustomError("boolean", "Input should be true or false")
    return value == "true"


def _whole_number(value: object) -> object:
    if not isinstance(value, str) or not _WHOLE_NUMBER.fullmatch(value):
        raise PydanticCustomError("whole_number", "Input should be a whole number")
    return int(value)


def _canonical(value: object) -> object:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise PydanticCustomError("uuid", "Input should be a UUID in its canonical form")
    return UUID(value)


# The schema of an optional parameter says what it is when it is there: a query
# cannot hold null.
Completed = Annotated[
    bool | None,
    BeforeValidator(_boolean),
    WithJsonSchema({"type": "boolean"}),
    Query(description="Only tasks that are, or are not, completed."),
]
Limit = Annotated[
    int,
    Field(ge=1, le=MAXIMUM_LIMIT),
    BeforeValidator(_whole_number),
    Query(description="How many tasks a page has at most."),
]
Cursor = Annotated[
    str | None,
    WithJsonSchema({"type": "string"}),
    Query(description="Where the page begins; taken from the `next` link."),
]
TaskId = Annotated[UUID, BeforeValidator(_canonical), Path(description="The task's id.")]
