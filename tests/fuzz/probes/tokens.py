"""Probes of authentication: every way to be almost authorised, against every operation."""

from collections.abc import Iterator, Mapping

from httpx2 import Response

from tests.fuzz.context import DAY, User
from tests.fuzz.prober import JSON, Headers, Prober, probe, valid
from tests.fuzz.response_checks import INVALID_TOKEN
from tests.fuzz.signers import decode_part, encode_part
from tests.operations import OPERATIONS, Operation
from tests.support import TASKS, wait_until

LEEWAY = 30
SLACK = 10
"""Seconds that may pass between signing a token and its verification."""
LAST_SECOND = 253_402_300_799
"""The end of the year 9999, in Unix seconds."""
SUBJECTS = ("x", "x" * 255, "ü" * 255, "😀", "a b", " ", "../tasks", "' OR true --", "%00", "null")
BAD_SUBJECTS = (
    "",
    "x" * 256,
    1,
    None,
    True,
    ["x"],
    {"id": "x"},
    "a\nb",
    "a\0b",
    "a\x7fb",
    "a\x85b",
    "\ud800",
)
BAD_TIMES: tuple[object, ...] = ("tomorrow", None, [], {}, True)
SCOPES_WITHOUT = (
    "",
    "{1}",
    "{1}:",
    "{1}:{0}s",
    "x{0}",
    "X{1}:{0}",
    "{1}:*",
    "{1}:{0},x",
    "{1} {0}",
)
ALGORITHMS = ("HS384", "HS512", "RS256", "EdDSA", "none", "hs256", "")

REASONS: Mapping[str, tuple[str, ...]] = {
    "A required claim is missing": (
        "a token without exp", "the token of an e-mail link", "exp None", "the subject None",
        "the audience ''", "the audience []", "the audience None",
    ),
    "The algorithm is not accepted": ("another algorithm", "an altered algorithm", "the public key"),
    "The expiry is out of range": ("an expiry after",),
    "The scope is not a string": ("the scope",),
    "The signature is invalid": (
        "a re-signed token", "a truncated token", "the secret", "an altered payload",
        "an extended lifetime", "the signature of another token",
    ),
    "The signing key is unknown": ("an unknown key", "an altered algorithm"),
    "The subject is invalid": ("the subject '",),
    "The token has expired": ("an expired token", "expired", "exp True"),
    "The token is for another audience": ("a foreign token", "the audience"),
    "The token is malformed": (
        "a truncated token", "an unsigned token", "no signature", "two parts", "four parts",
        "an empty token", "a token and more", "a token with padding", "a token that is no token",
        "exp '", "exp [", "exp {", "nbf '", "iat '",
        "the subject 1", "the subject True", "the subject [", "the subject {",
    ),
    "The token is not valid yet": ("a token of tomorrow", "not valid yet", "issued in the future"),
}  # fmt: skip
"""The error description, and how the kinds of forged tokens begin that get it.

A kind is in two rows if the description depends on the source of the keys.
"""


def forged_tokens(prober: Prober) -> Iterator[tuple[str, str]]:
    """Tokens of the owner that must be rejected, by what is wrong with them."""
    context = prober.context
    mint, sign, owner, now = context.mint, context.signer.sign, context.owner.id, context.now()
    header, payload, signature = context.owner.token.split(".")
    yield from ((kind, token) for kind, token in context.invalid_tokens.items() if token is not None)
    yield (
        "an altered payload",
        f"{header}.{encode_part({**decode_part(payload), 'sub': context.stranger.id})}.{signature}",
    )
    yield (
        "an extended lifetime",
        f"{header}.{encode_part({**decode_part(payload), 'exp': now + 9 * DAY})}.{signature}",
    )
    yield "the signature of another token", f"{header}.{payload}.{context.stranger.token.split('.')[2]}"
    yield "no signature", f"{header}.{payload}."
    yield "two parts", f"{header}.{payload}"
    yield "four parts", f"{context.owner.token}.{signature}"
    yield "an empty token", ""
    yield "a token and more", f"{context.owner.token} {context.owner.token}"
    yield "a token with padding", f"{context.owner.token}="
    yield "a token that is no token", "x" * 40
    for name in ALGORITHMS:
        yield (
            f"an altered algorithm {name}",
            f"{encode_part({'alg': name, 'typ': 'JWT'})}.{payload}.{signature}",
        )
    yield "expired", mint(owner, iat=now - 3600, exp=now - LEEWAY - 1)
    yield "not valid yet", mint(owner, nbf=now + LEEWAY + SLACK)
    yield "issued in the future", mint(owner, iat=now + LEEWAY + SLACK)
    yield "an expiry after the year 9999", mint(owner, exp=LAST_SECOND + 1)
    for name in ("exp", "nbf", "iat"):
        for value in BAD_TIMES if name == "exp" else BAD_TIMES[:1]:
            yield f"{name} {value!r}", mint(owner, **{name: value})
    for audience in ("", [], "https://app.example.com", ["x"], None):
        yield f"the audience {audience!r}", sign({"sub": owner, "exp": now + DAY, "aud": audience})
    scopes: tuple[object, ...] = (None, 1, True, ["tasks:read"], {})
    for scope in scopes:
        yield f"the scope {scope!r}", mint(owner, scope=scope)
    for subject in BAD_SUBJECTS:
        yield f"the subject {subject!r}", sign({"sub": subject, "exp": now + DAY})


@probe(
    "auth.bearer",
    "auth.invalid",
    "auth.hs256",
    "auth.algorithm",
    "auth.sub",
    "auth.email-link",
    "auth.exp",
    "auth.nbf",
    "auth.audience",
    "auth.session-cache",
    "auth.scope.malformed",
    at_least=60 * len(OPERATIONS),
)
def a_forged_token_against_each_operation(prober: Prober) -> None:
    task = prober.context.any_task()
    for kind, token in forged_tokens(prober):
        for operation in OPERATIONS:
            response = prober.refuse(
                401, "unauthorized", operation.method, operation.url(task), **valid(operation, token)
            )
            challenge = response.headers.get("WWW-Authenticate", "")
            given = INVALID_TOKEN.fullmatch(challenge)
            expected = [reason for reason, kinds in REASONS.items() if kind.startswith(kinds)]
            prober.expect(
                given and given[1] in expected, f"{kind} gets the challenge {challenge!r}", response
            )


@probe("auth.missing", "auth.one-header", at_least=9 * len(OPERATIONS))
def credentials_that_are_not_one_bearer_token(prober: Prober) -> None:
    task, token = prober.context.any_task(), prober.context.owner.token
    values = (f"Basic {token}", f"Token {token}", f"DPoP {token}", f"xBearer {token}", token, "")
    for operation in OPERATIONS:
        without: list[Headers] = [(), *([("Authorization", value)] for value in values)]
        for headers in without:
            response = _refuse(prober, operation, task, None, headers)
            challenge = response.headers.get("WWW-Authenticate")
            prober.expect(challenge == "Bearer", f"{headers} get the challenge {challenge!r}", response)
        for second in (f"Bearer {token}", "Basic x"):
            _refuse(prober, operation, task, token, [("Authorization", second)])


def _refuse(prober: Prober, operation: Operation, task: str, token: str | None, headers: Headers) -> Response:
    request = valid(operation, token)
    request["headers"] = [*JSON, *headers]
    return prober.refuse(401, "unauthorized", operation.method, operation.url(task), **request)


@probe("auth.first", "problems.no-echo", at_least=4 * len(OPERATIONS))
def an_invalid_request_without_a_token(prober: Prober) -> None:
    """Whatever else is wrong, the answer is the 401 of a request without a token."""
    for operation in OPERATIONS:
        for query in ("?unknown=1", "?limit=0&limit=0"):
            for content, kind in ((b"{", "application/json"), (b"\0" * 70_000, "text/x-unknown")):
                path = operation.path.format(task_id="not-an-id") + query
                prober.refuse(
                    401,
                    "unauthorized",
                    operation.method,
                    path,
                    content=content,
                    headers=[("Content-Type", kind)],
                )


@probe(
    "auth.exp",
    "auth.nbf",
    "auth.sub",
    "auth.bearer",
    "auth.scope.none",
    "task.owner",
    at_least=40,
)
def a_token_just_within_the_limits(prober: Prober) -> None:
    context = prober.context
    now, owner = context.now(), context.owner.id
    claims: list[dict[str, object]] = [
        {"iat": now - 3600, "exp": now - LEEWAY + SLACK},
        {"nbf": now + LEEWAY},
        {"iat": now + LEEWAY},
        {"exp": LAST_SECOND},
        {"exp": now + 60.5},
        {"email": "someone@example.com", "userId": "someone"},
    ]
    tokens = [User(owner, context.mint(owner, **each)) for each in claims]
    tokens += [User(subject, context.mint(subject)) for subject in SUBJECTS]
    for user in tokens:
        for _ in range(2):  # The second time from the cache.
            prober.accept(200, "GET", f"{TASKS}?limit=1", token=user)
    for subject in SUBJECTS:
        user = User(subject, context.mint(subject))
        created = prober.accept(201, "POST", TASKS, token=user, content=b'{"title": "Mine"}', headers=JSON)
        prober.expect(created.json().get("user_id") == subject, "the owner is not the subject", created)
    for scheme in ("bearer", "BEARER", "bEaReR"):
        prober.accept(200, "GET", TASKS, token=context.owner, scheme=scheme)


@probe("auth.cache", "auth.exp", at_least=2)
def a_token_that_expires_in_the_cache(prober: Prober) -> None:
    context = prober.context
    owner, now = context.owner.id, context.now()
    user = User(owner, context.mint(owner, iat=now - 3600, exp=now - LEEWAY + 3))
    prober.accept(200, "GET", TASKS, token=user)
    wait_until(lambda: prober.request("GET", TASKS, token=user).status_code == 401, "it never expires")
    prober.refuse(401, "unauthorized", "GET", TASKS, token=user)


@probe("auth.sub-opaque", "tasks.list.own", "tasks.isolation", at_least=12)
def a_user_id_that_looks_like_the_owners(prober: Prober) -> None:
    context = prober.context
    owner = context.owner.id
    for similar in (owner.upper(), owner.title(), f"{owner} ", f" {owner}", owner[:-1], f"{owner}\u0301"):
        user = User(similar, context.mint(similar))
        listed = prober.accept(200, "GET", TASKS, token=user)
        prober.expect(listed.json() == [], f"{similar!r} sees tasks of {owner!r}", listed)
        prober.refuse(404, "not-found", "GET", f"{TASKS}/{context.any_task()}", token=user)


@probe("auth.scope.limits", "headers.cache", at_least=(len(SCOPES_WITHOUT) + 6) * len(OPERATIONS))
def a_scope_that_is_almost_enough(prober: Prober) -> None:
    scopes = {each.scope for each in OPERATIONS}
    for operation in OPERATIONS:
        kind, _, name = operation.scope.partition(":")
        others = sorted(scopes - {operation.scope})
        for scope in (*(each.format(name, kind) for each in SCOPES_WITHOUT), *others, " ".join(others)):
            request = valid(operation, _limited(prober, scope))
            response = prober.refuse(403, "insufficient-scope", operation.method, operation.url(), **request)
            challenge = response.headers.get("WWW-Authenticate", "")
            named = f'scope="{operation.scope}"' in challenge
            prober.expect(named, f"the challenge for {scope!r} is {challenge!r}", response)
        for scope in (
            operation.scope,
            f"openid {operation.scope} email",
            " ".join([operation.scope, *others]),
        ):
            request = valid(operation, _limited(prober, scope))
            status = 404 if operation.on_one_task else operation.status
            prober.accept(status, operation.method, operation.url(), **request)


def _limited(prober: Prober, scope: str) -> User:
    """A user with a token of this scope, who may delete the account."""
    return User("fuzz-limited", prober.context.mint("fuzz-limited", scope=scope))
