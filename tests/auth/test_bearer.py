"""Getting the token out of the request, and refusing before anything else."""

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.operations import OPERATIONS, Operation, each
from tests.support import TASKS, Caller, assert_problem, assert_unauthorized

MALFORMED = "The token is malformed"


@pytest.mark.spec("auth.bearer", "auth.missing")
@each()
def test_every_operation_needs_a_token(anonymous: Caller, operation: Operation) -> None:
    assert_unauthorized(operation.send(anonymous), None)


@pytest.mark.spec("auth.bearer")
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_case_insensitive(owner: Caller, anonymous: Caller, scheme: str) -> None:
    assert anonymous.get(headers={"Authorization": f"{scheme} {owner.token}"}).status_code == 200


@pytest.mark.spec("auth.missing")
@pytest.mark.parametrize("value", ["", "Basic dXNlcjpwYXNz", "Token x", "Bearer\tx", "Bearerx", "Digest x"])
def test_another_scheme_counts_as_no_credentials(anonymous: Caller, value: str) -> None:
    assert_unauthorized(anonymous.get(headers={"Authorization": value}), None)


@pytest.mark.spec("auth.missing")
def test_a_token_outside_the_authorization_header_is_ignored(owner: Caller, anonymous: Caller) -> None:
    for place in ("Cookie", "X-Authorization", "Proxy-Authorization"):
        assert_unauthorized(anonymous.get(headers={place: f"Bearer {owner.token}"}), None)
    assert_unauthorized(anonymous.get(f"{TASKS}?access_token={owner.token}"), None)


@pytest.mark.spec("auth.one-header")
def test_it_rejects_two_authorization_headers_even_if_both_are_valid(owner: Caller, stranger: Caller) -> None:
    for tokens in ((owner.token, owner.token), (owner.token, stranger.token), (owner.token, "x")):
        headers = [("Authorization", f"Bearer {token}") for token in tokens]
        response = owner.client.get(TASKS, headers=headers)
        assert_unauthorized(response, "There is more than one Authorization header")


@pytest.mark.spec("auth.invalid", "problems.no-echo")
@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b",
        "a.b.c.d",
        "..",
        "a..c",
        "e30.e30.",
        "null",
        "é.é.é",
        "a b.c.d",
        "A" * 7000,
        '"',
        "a.b.c,d.e.f",
    ],
)
def test_it_rejects_malformed_tokens_without_echoing_them(anonymous: Caller, token: str) -> None:
    response = anonymous.client.get(TASKS, headers=[(b"Authorization", f"Bearer {token}".encode("latin-1"))])
    assert_unauthorized(response, MALFORMED)


@pytest.mark.spec("auth.invalid")
@settings(
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(parts=st.lists(st.binary(max_size=60), min_size=3, max_size=3), raw=st.booleans())
def test_arbitrary_tokens_never_cause_a_server_error(
    anonymous: Caller, parts: list[bytes], raw: bool
) -> None:
    encoded = [part if raw else base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts]
    value = b"Bearer " + b".".join(encoded).replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")
    response = anonymous.client.get(TASKS, headers=[(b"Authorization", value)])
    assert_problem(response, 401, "unauthorized")


@pytest.mark.spec("auth.first")
@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", TASKS, b"{"),
        ("POST", TASKS, b"\xff"),
        ("POST", TASKS, b"x" * 100_000),
        ("PUT", f"{TASKS}/no-uuid", b"[]"),
        ("PATCH", f"{TASKS}/no-uuid?x=1", b"{}"),
        ("GET", f"{TASKS}?limit=0&cursor=x", b""),
        ("DELETE", f"{TASKS}/no-uuid", b""),
    ],
)
def test_authentication_precedes_all_other_validation(
    anonymous: Caller, method: str, path: str, content: bytes
) -> None:
    for headers in ({}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain"}):
        assert_unauthorized(anonymous.request(method, path, content=content, headers=headers), None)


def test_a_refused_request_changes_nothing(owner: Caller, anonymous: Caller) -> None:
    task = owner.create()
    for operation in OPERATIONS:
        assert_unauthorized(operation.send(anonymous, task["id"]), None)
    assert owner.get().json() == [task]
