"""JSON request bodies, read by a dependency after authentication.

FastAPI parses a declared body before it resolves dependencies, so a caller without a token
would get errors about the body. Dependencies are resolved in order, so this one runs after
authentication.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from problems import (
    BODY_TOO_LARGE,
    INVALID_REQUEST,
    MALFORMED_BODY,
    UNSUPPORTED_MEDIA_TYPE,
    ProblemError,
    ProblemItem,
)
from schemas import OPERATIONS

MAXIMUM_BYTES, MAXIMUM_BATCH_BYTES = 65_536, 262_144
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

# RFC 9110, section 8.3.1, without the `*` of RFC 8187: `charset*=` would hide a charset.
_WORD = r"[!#$%&'+.^_`|~0-9A-Za-z-]+"
_VALUE = rf'(?:{_WORD}|"[^"\\]*")'
_CONTENT_TYPE = re.compile(rf"({_WORD}/{_WORD})((?:[ \t]*;[ \t]*{_WORD}={_VALUE})*)[ \t]*")
_CHARSET = re.compile(rf"[ \t;]charset=({_VALUE})", re.IGNORECASE)

ModelT = TypeVar("ModelT", bound=BaseModel)


def json_body(
    model: type[ModelT], *media_types: str, maximum: int = MAXIMUM_BYTES
) -> Callable[[Request], Awaitable[ModelT]]:
    """A dependency that reads, parses and validates the body of up to `maximum` bytes as `model`.

    Declare it after `CurrentUser`, so that FastAPI resolves it after authentication.
    """

    async def read(request: Request) -> ModelT:
        _check_media_type(request, media_types)
        return validate(model, parse(await _bounded(request, maximum)))

    return read


def validate(model: type[ModelT], document: object) -> ModelT:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        items = body_errors(error.errors(include_url=False, include_input=False), model)
        raise ProblemError(INVALID_REQUEST, "The body is not valid; see errors.", errors=items) from None


def parse(body: bytes) -> object:
    """Parse JSON (RFC 8259) with unique names and text that can be encoded as UTF-8."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
        if b"\\u" in body:
            # Only an escape can produce a lone surrogate, which cannot be encoded again.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ProblemError(MALFORMED_BODY, "The body is not valid JSON in UTF-8 with unique names.") from None
    return document


def body_errors(errors: Iterable[ErrorDetails], model: type[BaseModel]) -> Iterable[ProblemItem]:
    """pydantic's errors as problem items, without echoing unknown names."""
    for each in errors:
        location = each["loc"]
        if each["type"] == "extra_forbidden":
            location = location[:-1]
            known = ", ".join(_model_at(model, location).model_fields)
            yield ProblemItem(detail=f"Unknown field. Known fields: {known}.", pointer=_pointer(location))
        else:
            yield ProblemItem(detail=f"{_message(each)}.", pointer=_pointer(location))


def _pointer(location: Iterable[str | int]) -> str:
    """pydantic's locations contain the kind of an operation behind its number, as if it were a member."""
    pointer, before = "", None
    for part in location:
        if not isinstance(before, int):
            pointer += f"/{part}"
        before = part
    return pointer


def _model_at(model: type[BaseModel], location: Iterable[str | int]) -> type[BaseModel]:
    """The model of the object at a location in the body."""
    for part in location:
        if part in OPERATIONS:
            model = OPERATIONS[str(part)]
        elif part == "task":
            task = model.model_fields["task"].annotation
            assert isinstance(task, type)
            assert issubclass(task, BaseModel)
            model = task
    return model


def _message(error: ErrorDetails) -> str:
    """pydantic's message, unless it mentions Python types or echoes the input."""
    if error["type"] in {"model_type", "model_attributes_type"}:
        return "Input should be an object"
    if error["type"].startswith("union_tag"):
        return f"op should be one of {', '.join(OPERATIONS)}"
    if error["type"] == "too_short":
        return "List should have at least 1 item"
    if error["type"] == "too_long":
        return f"List should have at most {error['ctx']['max_length']} items"
    return error["msg"]


def _is_utf8(parameters: str) -> bool:
    charsets = _CHARSET.findall(parameters)
    return all(charset.strip('"').lower() in {"utf-8", "utf8"} for charset in charsets)


def _check_media_type(request: Request, accepted: Sequence[str]) -> None:
    types = request.headers.getlist("content-type")
    codings = request.headers.getlist("content-encoding")
    read = _CONTENT_TYPE.fullmatch(types[0]) if len(types) == 1 else None
    coded = any(coding.lower() != "identity" for coding in codings)
    if read is None or read[1].lower() not in accepted or coded or not _is_utf8(read[2]):
        names = " or ".join(accepted)
        raise ProblemError(UNSUPPORTED_MEDIA_TYPE, f"Send {names} in UTF-8 without a content coding.")


async def _bounded(request: Request, maximum: int) -> bytes:
    """Read the body, up to `maximum` bytes."""
    body = bytearray()
    announced = request.headers.get("content-length", "")
    # int() refuses more than 4,300 digits; float() does not.
    too_large = announced.isdecimal() and float(announced) > maximum
    if not too_large:
        async for chunk in request.stream():
            body += chunk
            if len(body) > maximum:
                too_large = True
                break
    if too_large:
        raise ProblemError(BODY_TOO_LARGE, f"The body has more than {maximum:,} bytes.")
    return bytes(body)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("duplicate name")
    return members


def _refuse(constant: str) -> object:
    raise ValueError("NaN and Infinity are not JSON")
