"""Request bodies: media types, JSON, size limits and errors."""

import json
from collections.abc import Iterator

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.factories import new_task
from tests.support import TASKS, Caller, assert_problem, error_locations

LIMIT = 65_536


def send(caller: Caller, content: bytes | Iterator[bytes], media_type: str = "application/json") -> Response:
    return caller.request("POST", TASKS, content=content, headers={"Content-Type": media_type})


def padded(size: int) -> bytes:
    """A valid body of exactly `size` bytes."""
    body = json.dumps(new_task()).encode()
    return body + b" " * (size - len(body))


@pytest.mark.spec("http.json")
@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; x=y",
        "application/json; charset=utf8",
        'application/json ; x="a;b" ; charset=utf-8 ',
    ],
)
def test_json_in_utf8_is_read(owner: Caller, media_type: str) -> None:
    assert send(owner, '{"title": "naïve ✓"}'.encode(), media_type).json()["title"] == "naïve ✓"


@pytest.mark.spec("http.json")
@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/merge-patch+json",
        "application/json; charset=latin-1",
        "application/json; charset=iso-8859-1",
        "application/json; charset=us-ascii",
        "application/json; charset=utf-16",
        "application/*",
        "json",
        "application/jsonp",
        "a/b/c",
        ";",
        "application/json, text/plain",
        "application/json; a*=x; a*0=y",
        "application/json; charset*" + "9" * 4301 + "=x",
        "application/json; charset=utf-8; charset=latin-1",
        "application/json; charset*=bogus''%ff",
        "application/json; charset=",
        "application/json; charset",
        "application/json;;",
    ],
)
def test_it_rejects_other_media_types(owner: Caller, media_type: str) -> None:
    assert_problem(send(owner, json.dumps(new_task()).encode(), media_type), 415, "unsupported-media-type")
    assert owner.ids() == []


@pytest.mark.spec("http.json")
def test_a_body_needs_a_media_type(owner: Caller) -> None:
    assert_problem(owner.request("POST", TASKS, content=b'{"title": "x"}'), 415, "unsupported-media-type")
    headers = [("Content-Type", "application/json"), ("Content-Type", "application/json")]
    authorization = ("Authorization", f"Bearer {owner.token}")
    response = owner.client.post(TASKS, content=b'{"title": "x"}', headers=[*headers, authorization])
    assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.spec("http.json")
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "identity, gzip"])
def test_it_rejects_content_codings(owner: Caller, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    response = owner.request("POST", TASKS, content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.spec("http.json")
@pytest.mark.parametrize("value", [b"application/json; charset=\xff", b"application/json\xa0", b"\xe9/json"])
def test_it_rejects_non_ascii_media_types(owner: Caller, value: bytes) -> None:
    headers = [(b"Content-Type", value), (b"Authorization", f"Bearer {owner.token}".encode())]
    response = owner.client.post(TASKS, content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.spec("http.json")
@pytest.mark.parametrize("codings", [("identity", "gzip"), ("gzip", "identity")])
def test_it_rejects_a_content_coding_in_any_header(owner: Caller, codings: tuple[str, ...]) -> None:
    headers = [("Content-Type", "application/json"), ("Authorization", f"Bearer {owner.token}")]
    headers += [("Content-Encoding", coding) for coding in codings]
    response = owner.client.post(TASKS, content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 415, "unsupported-media-type")


@pytest.mark.spec("http.json")
@settings(
    derandomize=True,
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(media_type=st.text(st.sampled_from("aAz/*;=\"\\' \t0987charsetutf-8jsonpplication%,"), max_size=60))
def test_arbitrary_media_types_never_cause_a_server_error(owner: Caller, media_type: str) -> None:
    for value in (media_type, f"application/json;{media_type}"):
        assert send(owner, b'{"title": "x"}', value.strip()).status_code in {201, 415}


@pytest.mark.spec("http.malformed")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" ",
        b"{",
        b'{"title": "x"',
        b'{"title": "x"} {}',
        b"{'title': 'x'}",
        b'{"title": "x",}',
        b'{title: "x"}',
        b'// comment\n{"title": "x"}',
        b'{"title": "\xff"}',
        b'{"title": "\xed\xa0\x80"}',
        b'{"title": "\xc0\x80"}',
        '{"title": "x"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"title": "x"}',
        b'{"title": "a\nb"}',
        b'{"title": NaN}',
        b'{"title": Infinity}',
        b'{"title": -Infinity}',
        b'{"title": 01}',
        b'{"title": "\\x41"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 60_000,
        b'{"title": "x", "completed": ' + b"1" * 4301 + b"}",
        b"\0",
        b"undefined",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_it_rejects_malformed_json(owner: Caller, content: bytes) -> None:
    assert_problem(send(owner, content), 400, "malformed-body")


@pytest.mark.spec("http.surrogates")
@pytest.mark.parametrize("escape", ["\\ud800", "\\udfff", "\\uD800", "\\ud800x", "\\udc00\\ud800", "\\ud83d"])
@pytest.mark.parametrize("body", ['{"title": "%s"}', '{"%s": 1}', '{"title": "x", "tags": ["%s"]}'])
def test_a_lone_surrogate_is_refused(owner: Caller, body: str, escape: str) -> None:
    assert_problem(send(owner, (body % escape).encode()), 400, "malformed-body")


@pytest.mark.spec("http.surrogates")
def test_it_accepts_surrogate_pairs(owner: Caller) -> None:
    assert send(owner, b'{"title": "\\ud83d\\ude00"}').json()["title"] == "😀"


@pytest.mark.spec("http.duplicate-keys")
@pytest.mark.parametrize(
    "content",
    [
        b'{"title": "a", "title": "b"}',
        b'{"title": "a", "\\u0074itle": "b"}',
        b'{"title": "a", "x": {"y": 1, "y": 1}}',
    ],
)
def test_it_rejects_duplicate_names(owner: Caller, content: bytes) -> None:
    assert_problem(send(owner, content), 400, "malformed-body")
    assert owner.ids() == []


@pytest.mark.spec("http.object")
@pytest.mark.parametrize("content", [b"[]", b'[{"title": "x"}]', b"null", b'"title"', b"1", b"true"])
def test_it_rejects_json_that_is_not_an_object(owner: Caller, content: bytes) -> None:
    response = send(owner, content)
    assert error_locations(response) == {""}
    assert response.json()["errors"][0]["detail"] == "Input should be an object."


@pytest.mark.spec("http.body-limit")
def test_it_accepts_a_body_of_the_maximum_size(owner: Caller) -> None:
    body = padded(LIMIT)
    assert send(owner, body).status_code == 201
    assert send(owner, iter([body[:40_000], body[40_000:]])).status_code == 201


@pytest.mark.spec("http.body-limit")
def test_the_body_of_a_get_is_ignored(owner: Caller) -> None:
    assert owner.request("GET", TASKS, content=b"x" * (LIMIT + 1)).status_code == 200


@pytest.mark.spec("http.body-limit")
def test_it_rejects_a_body_over_the_maximum_size(owner: Caller) -> None:
    assert_problem(send(owner, padded(LIMIT + 1)), 413, "body-too-large")
    assert_problem(send(owner, iter([padded(LIMIT), b" "])), 413, "body-too-large")
    for digits in (30, 5000):
        headers = {"Content-Type": "application/json", "Content-Length": "9" * digits}
        assert_problem(owner.request("POST", TASKS, content=b"{}", headers=headers), 413, "body-too-large")
    assert owner.ids() == []


@pytest.mark.spec("problems.errors")
def test_repeated_errors_are_reported_once(owner: Caller) -> None:
    problem = assert_problem(
        owner.post({f"x{n}": 1 for n in range(3000)} | {"title": 1}), 422, "invalid-request"
    )
    assert len(problem["errors"]) == 2
    problem = assert_problem(owner.post({"title": "x", "tags": [1] * 20_000}), 422, "invalid-request")
    assert len(problem["errors"]) <= 21
    assert "20000" not in str(problem)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["title", "description", "completed", "priority", "due_at", "tags", "id", "x"])


@pytest.mark.spec("problems.media-type", "problems.members")
@settings(
    derandomize=True,
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(body=st.dictionaries(FIELDS, JSON_VALUES, max_size=5))
def test_arbitrary_bodies_never_cause_a_server_error(owner: Caller, body: dict[str, object]) -> None:
    response = owner.post(body)
    if response.status_code != 201:
        assert_problem(
            response,
            response.status_code,
            {400: "malformed-body", 422: "invalid-request"}[response.status_code],
        )


@pytest.mark.spec("problems.no-echo")
@pytest.mark.parametrize(
    "body",
    [
        {"title": 5, "mark-1": "mark-2"},
        {"title": "x" * 201 + "mark-1"},
        {
            "title": "mark-1\0",
            "priority": "mark-2",
            "due_at": "mark-3",
            "tags": ["mark-4" * 10],
            "completed": "mark-5",
        },
        {"title": {"mark-1": 1}, "tags": [{"mark-2": 2}]},
    ],
)
def test_errors_do_not_echo_the_body(owner: Caller, body: object) -> None:
    response = owner.post(body)
    assert error_locations(response)
    assert "mark" not in response.text + str(response.headers)


@pytest.mark.spec("problems.no-echo", "http.malformed")
@pytest.mark.parametrize("body", [b'{"title": "mark', b"mark", b'{"mark": 1, "mark": 2}', b"\xffmark"])
def test_errors_do_not_echo_a_malformed_body(owner: Caller, body: bytes) -> None:
    response = owner.request("POST", TASKS, content=body, headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "malformed-body")
    assert "mark" not in response.text + str(response.headers)


@pytest.mark.spec("problems.no-echo")
def test_errors_do_not_echo_the_path_or_query(owner: Caller) -> None:
    for path in (
        f"{TASKS}/mark",
        f"{TASKS}?mark=mark",
        f"{TASKS}?limit=mark",
        f"{TASKS}?completed=mark",
        "/mark",
        f"{TASKS}?cursor=mark",
        "/problems/mark",
    ):
        response = owner.get(path)
        assert response.status_code >= 400
        assert "mark" not in response.text + str(response.headers)
