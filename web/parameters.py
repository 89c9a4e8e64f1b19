"""Path and query parameters, validated as strictly as bodies."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, TypeVar, TypeVarTuple
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from starlette.datastructures import QueryParams

from auth.bearer import get_current_user
from problems import CONFLICTING_PARAMETERS, INVALID_REQUEST, ProblemError, ProblemItem
from schemas import CONFLICT, POSITION_PATTERN, TaskFilter, TaskUUID
from web import openapi

ModelT = TypeVar("ModelT", bound=BaseModel)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

KEPT_QUERIES, SHORT_QUERY = 256, 200
"""How many parsed queries are kept, and their maximum length in bytes: about 1 MB."""

_OWN_WORDS = re.compile(rb"(?:^|&)(?:q|tag|any_tag)=")
"""Parameters whose values are words of one user: that they are kept could be told by the time that
the same query takes another user."""

CURSOR_PATTERN = r"^[A-Za-z0-9_-]{43}$"
"""Base64url (RFC 4648, section 5) without padding, of the 32 bytes of a cursor: see `pagination`."""

DEFAULT_LIMIT, MAXIMUM_LIMIT = 50, 200

MAXIMUM_WAIT = 25
"""In seconds. Routers end a request without a response after 30 s (Heroku) or later."""

_POSITION = re.compile(POSITION_PATTERN.removesuffix("$"))
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")


def _kept(function: Callable[[*Ts, bytes], T]) -> Callable[[*Ts, bytes], T]:
    """Keep the results for short queries, which many requests have in common; an error is not kept."""
    keep = lru_cache(KEPT_QUERIES)(function)

    def call(*arguments: *tuple[*Ts, bytes]) -> T:
        query = arguments[-1]
        kept = len(query) <= SHORT_QUERY and not _OWN_WORDS.search(query)
        return keep(*arguments) if kept else function(*arguments)

    return call


async def check_query_names(request: Request) -> None:
    """Reject a query parameter that the operation does not declare, or that is repeated, and
    a query that is not UTF-8.

    The declared parameters are those in the OpenAPI document. This runs before FastAPI
    resolves dependencies, so it authenticates the caller before it rejects the query: a
    request without a valid token gets 401, whatever its query.
    """
    items = _wrong_names(
        request.app, request.scope["route"].path_format, request.method, request.scope["query_string"]
    )
    if items:
        if get_current_user not in request.app.dependency_overrides:
            await get_current_user(request)
        raise invalid_parameters(items)


@_kept
def _wrong_names(app: FastAPI, path: str, method: str, query: bytes) -> Sequence[ProblemItem]:
    declared = _declared(app, path, method)
    given = [name for name, _ in QueryParams(query).multi_items()]
    items = []
    if not _is_utf8(unquote_to_bytes(query)):
        items.append(ProblemItem(detail="The query is not UTF-8.", parameter=""))
    if not set(given) <= set(declared):
        known = f"Known parameters: {', '.join(declared)}." if declared else "This operation takes none."
        items.append(ProblemItem(detail=f"Unknown query parameter. {known}", parameter=""))
    items += [
        ProblemItem(detail="The parameter is given more than once.", parameter=name)
        for name, repeatable in declared.items()
        if given.count(name) > 1 and not repeatable
    ]
    return items


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(64)
def _declared(app: FastAPI, path: str, method: str) -> Mapping[str, bool]:
    """The names of the operation's query parameters, and whether each can be repeated."""
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    operation = paths.get(path, {}).get(method.lower(), {})
    return {
        each["name"]: openapi.repeatable(each)
        for each in operation.get("parameters", ())
        if each["in"] == "query"
    }


def query_parameters(model: type[ModelT]) -> Callable[[Request], Awaitable[ModelT]]:
    """A dependency that validates the query as `model`, which is frozen.

    `openapi.parameters` declares it.

    Raises what FastAPI raises for its own query models, which cost about 70 µs per request.
    """
    declared = openapi.parameters(model)["parameters"]
    repeatable = {str(each["name"]) for each in declared if openapi.repeatable(each)}

    @_kept
    def parse(text: bytes) -> ModelT:
        query = QueryParams(text)
        given: dict[str, object] = dict(query)
        given |= {name: query.getlist(name) for name in repeatable & given.keys()}
        try:
            return model.model_validate(given)
        except ValidationError as error:
            found = error.errors()
            if all(each["type"] == CONFLICT for each in found):
                raise _conflicting(found) from None
            located = [{**each, "loc": ("query", *each["loc"])} for each in found]
            raise RequestValidationError(located) from None

    async def read(request: Request) -> ModelT:
        return parse(request.scope["query_string"])

    return read


def _conflicting(found: Iterable[ErrorDetails]) -> ProblemError:
    items = [ProblemItem(detail=f"{each['msg']}.", parameter=str(each["loc"][0])) for each in found]
    return ProblemError(
        CONFLICTING_PARAMETERS, "Two parameters contradict each other; see errors.", errors=items
    )


def invalid_parameters(items: Iterable[ProblemItem]) -> ProblemError:
    return ProblemError(INVALID_REQUEST, "A parameter is not valid; see errors.", errors=items)


def _whole_number(value: object) -> object:
    if not isinstance(value, str) or not _WHOLE_NUMBER.fullmatch(value):
        raise PydanticCustomError("whole_number", "Input should be a whole number")
    return int(value)


def _position(value: str) -> str:
    if not _POSITION.fullmatch(value):
        raise PydanticCustomError("position", "Input should be a position of an earlier response")
    return value


TaskId = Annotated[TaskUUID, Path(description="The task's ID.")]


class ChangesQuery(BaseModel):
    """The query parameters of the changes."""

    model_config = ConfigDict(frozen=True)

    since: Annotated[
        Annotated[
            str, AfterValidator(_position), WithJsonSchema({"type": "string", "pattern": POSITION_PATTERN})
        ],
        Field(description="A `position` of an earlier response; 0 is the beginning."),
    ] = "0"
    limit: Annotated[
        int,
        Field(ge=1, le=MAXIMUM_LIMIT, description="Maximum number of tasks in the response."),
        BeforeValidator(_whole_number),
    ] = MAXIMUM_LIMIT
    wait: Annotated[
        int,
        Field(ge=0, le=MAXIMUM_WAIT, description="Seconds to wait for a change if there is none yet."),
        BeforeValidator(_whole_number),
    ] = 0


def _possible(sort: str | None, info: ValidationInfo) -> str | None:
    if sort and info.data.get("deleted") and not sort.endswith("updated"):
        raise PydanticCustomError(CONFLICT, "The trash is sorted by updated or -updated")
    return sort


class TaskQuery(TaskFilter):
    """The query parameters of the list: which tasks, and which page of them."""

    sort: Annotated[
        Literal["created", "-created", "due", "-due", "priority", "-priority", "updated", "-updated"] | None,
        Field(
            description="The order, descending with a minus sign. Tasks without a due date come last."
            " The default is `-created`, and `-updated` for the trash, which has no other order."
        ),
        AfterValidator(_possible),
    ] = None
    limit: Annotated[
        int,
        Field(ge=1, le=MAXIMUM_LIMIT, description="Maximum number of tasks on a page."),
        BeforeValidator(_whole_number),
    ] = DEFAULT_LIMIT
    cursor: Annotated[
        Annotated[str, WithJsonSchema({"type": "string", "pattern": CURSOR_PATTERN})] | None,
        Field(description="Where the page begins; taken from the `next` link."),
    ] = None

    @property
    def order(self) -> str:
        return self.sort or ("-updated" if self.deleted else "-created")

    @cached_property
    def text(self) -> str:
        """Equal for two queries only if they ask for the same page."""
        return repr((self.order, self.limit, self.cursor, sorted(self.given.items())))
