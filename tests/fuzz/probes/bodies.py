"""Probes of how a body is declared, encoded, sized and parsed, against every operation with a body."""

import itertools
import json
from collections.abc import Iterator

from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Content, Headers, Prober, probe
from tests.operations import ON_ONE_TASK, OPERATIONS, Operation

WITH_BODY = tuple(each for each in OPERATIONS if each.body)
WITHOUT_BODY = tuple(each for each in OPERATIONS if not each.body)
JSON_TYPES = (
    "application/json",
    "Application/JSON",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8",
    'application/json; charset="utf8"',
)
OTHER_TYPES = (
    "",
    "text/plain",
    "text/json",
    "application/jsonp",
    "application/json+x",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/json; charset=latin-1",
    "application/json; charset=iso-8859-1",
    "application/json; charset=us-ascii",
    "application/json; charset=utf-16",
    "application/xml",
)
MALFORMED = (
    b"",
    b" ",
    b"{",
    b'{"title": "x"',
    b'{"title": "x"}}',
    b'{"title": "x"} {}',
    b'{"title": "x",}',
    b"{'title': 'x'}",
    b'{title: "x"}',
    b'{"title": NaN}',
    b'{"title": Infinity}',
    b'{"title": -Infinity}',
    b'{"title": "a\nb"}',
    b'{"title": "\\x41"}',
    b'{"title": 01}',
    b'{"title": "\xff"}',
    b'{"title": "\xc3"}',
    b'{"title": "\xed\xa0\x80"}',
    b"\xff\xfe{\x00}\x00",
    '{"title": "x"}'.encode("utf-16"),
)
SURROGATES = (
    b'{"title": "\\ud800"}',
    b'{"title": "x\\udfff"}',
    b'{"title": "\\uD800"}',
    b'{"title": "\\uDFFFx"}',
    b'{"description": "\\udc00\\ud800", "title": "x"}',
    b'{"title": "x", "tags": ["\\ud83d"]}',
    b'{"\\ud800": 1, "title": "x"}',
)
DUPLICATES = (
    b'{"title": "x", "title": "x"}',
    b'{"title": "x", "title": "y"}',
    b'{"title": "x", "t\\u0069tle": "y"}',
    b'{"title": "x", "tags": [{"a": 1, "a": 1}]}',
    b'{"a": 1, "a": 2}',
)
NOT_OBJECTS = (b"[]", b'[{"title": "x"}]', b'"title"', b"1", b"1.5", b"null", b"true")


def _targets(prober: Prober) -> Iterator[tuple[Operation, str]]:
    """Every operation with a body, and a URL at which a good body would succeed."""
    task = prober.context.any_task()
    return ((operation, operation.url(task)) for operation in WITH_BODY)


def _padded(operation: Operation, size: int) -> bytes:
    """A valid body of exactly this many bytes."""
    assert operation.body is not None
    return json.dumps(operation.body()).encode().ljust(size)


def _typed(kind: str) -> Headers:
    return [("Content-Type", kind)] if kind else []


@probe("http.json", "tasks.update.media-types", at_least=len(JSON_TYPES) * len(WITH_BODY))
def a_media_type_that_is_accepted(prober: Prober) -> None:
    for operation, url in _targets(prober):
        content = _padded(operation, 1)
        for kind in JSON_TYPES:
            prober.accept(
                operation.status, operation.method, url,
                token=prober.context.owner, content=content, headers=_typed(kind),
            )  # fmt: skip
        if operation.method == "PATCH":
            prober.accept(
                operation.status, "PATCH", url,
                token=prober.context.owner, content=content, headers=_typed("application/merge-patch+json"),
            )  # fmt: skip


@probe("http.json", at_least=(len(OTHER_TYPES) + 4) * len(WITH_BODY))
def a_media_type_charset_or_coding_that_is_rejected(prober: Prober) -> None:
    codings = [
        [*_typed("application/json"), ("Content-Encoding", each)] for each in ("gzip", "br", "deflate", "x")
    ]
    for operation, url in _targets(prober):
        merge_patch = [] if operation.method == "PATCH" else [_typed("application/merge-patch+json")]
        for headers in (*map(_typed, OTHER_TYPES), *codings, *merge_patch):
            prober.refuse(
                415, "unsupported-media-type", operation.method, url,
                token=prober.context.owner, content=_padded(operation, 1), headers=headers,
            )  # fmt: skip


@probe(
    "http.malformed",
    "http.surrogates",
    "http.duplicate-keys",
    "problems.no-echo",
    at_least=(len(MALFORMED) + len(SURROGATES) + len(DUPLICATES) + 3) * len(WITH_BODY),
)
def a_body_that_is_not_json(prober: Prober) -> None:
    deep = b'{"tags": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    deep_objects = b'{"title": ' + b'{"a": ' * 9_000 + b"1" + b"}" * 9_000 + b"}"
    digits = b'{"title": ' + b"9" * 4_301 + b"}"
    for operation, url in _targets(prober):
        for content in (*MALFORMED, *SURROGATES, *DUPLICATES, deep, deep_objects, digits):
            prober.refuse(
                400, "malformed-body", operation.method, url,
                token=prober.context.owner, content=content, headers=JSON,
            )  # fmt: skip


@probe("http.object", at_least=len(NOT_OBJECTS) * len(WITH_BODY))
def a_body_that_is_json_but_no_object(prober: Prober) -> None:
    for operation, url in _targets(prober):
        merge_patch = [_typed("application/merge-patch+json")] if operation.method == "PATCH" else []
        for content, headers in itertools.product(NOT_OBJECTS, [JSON, *merge_patch]):
            prober.refuse(
                422, "invalid-request", operation.method, url,
                token=prober.context.owner, content=content, headers=headers,
            )  # fmt: skip


@probe("http.body-limit", "batch.body-limit", at_least=6 * len(WITH_BODY))
def a_body_within_one_percent_of_the_limit(prober: Prober) -> None:
    """On both sides, with a declared length and without."""
    for operation, url in _targets(prober):
        limit = operation.body_limit
        for size in (limit - 600, limit, limit + 1):
            whole = _padded(operation, size)
            for content in (whole, _in_chunks(whole)):
                _send_sized(prober, operation, url, content, fits=size <= limit)


def _send_sized(prober: Prober, operation: Operation, url: str, content: Content, *, fits: bool) -> None:
    owner, headers = prober.context.owner, JSON
    if fits:
        prober.accept(operation.status, operation.method, url, token=owner, content=content, headers=headers)
    else:
        prober.refuse(
            413, "body-too-large", operation.method, url, token=owner, content=content, headers=headers
        )


def _in_chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 16_000):
        yield content[start : start + 16_000]


@probe("http.body-limit", at_least=len(WITHOUT_BODY))
def a_body_where_none_is_expected(prober: Prober) -> None:
    # A user with nothing to lose, because one of the operations deletes the account.
    other = User("fuzz-bodies", prober.context.mint("fuzz-bodies"))
    for operation in WITHOUT_BODY:
        url = operation.url(prober.context.any_task())
        prober.accept(
            operation.status, operation.method, url,
            token=prober.context.owner if operation.on_tasks else other,
            content=b"{not JSON", headers=_typed("text/plain"),
        )  # fmt: skip


@probe("tasks.not-found", "tasks.replace.never-creates", at_least=len(ON_ONE_TASK))
def a_task_that_does_not_exist(prober: Prober) -> None:
    for operation in ON_ONE_TASK:
        content = _padded(operation, 1) if operation.body else None
        prober.refuse(
            404, "not-found", operation.method, operation.url(),
            token=prober.context.owner, content=content, headers=JSON,
        )  # fmt: skip
