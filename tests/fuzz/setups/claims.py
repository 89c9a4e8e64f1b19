"""Set-ups with a shared secret: several secrets, an issuer and an audience."""

import secrets

from tests.fuzz.context import User
from tests.fuzz.lab import Lab, accept_each_operation, refuse_each_operation, set_up
from tests.fuzz.signers import SharedSecret, mint
from tests.support import TASKS

USER = "fuzz-claims"


@set_up("auth.secret-rotation", "auth.hs256", at_least=28)
def several_secrets(lab: Lab) -> None:
    first, second, third = (secrets.token_hex(32) for _ in range(3))
    with lab.service(BETTER_AUTH_SECRET=f"{first},{second}") as prober:
        for secret in (first, second):
            accept_each_operation(prober, User(USER, mint(SharedSecret(secret), USER)))
        for secret in (third, f"{first},{second}", first + second, lab.secret):
            refuse_each_operation(prober, 401, "unauthorized", mint(SharedSecret(secret), USER))


@set_up("auth.issuer", "auth.audience", "auth.session-cache", at_least=20)
def an_issuer_and_an_audience(lab: Lab) -> None:
    issuer, audience = "https://auth.example.com", "tasks"
    ours: dict[str, object] = {"iss": issuer, "aud": audience}
    with lab.service(JWT_ISSUER=issuer, JWT_AUDIENCE=audience) as prober:
        accept_each_operation(prober, lab.user(**ours))
        prober.accept(200, "GET", TASKS, token=lab.user(**{**ours, "aud": ["x", audience]}))
        others: list[dict[str, object]] = [{}, {"iss": issuer}, {"aud": audience}]
        others += [{**ours, "iss": value} for value in ("", f"{issuer}/", issuer.upper(), None, [issuer])]
        others += [
            {**ours, "aud": value}
            for value in ("", "Tasks", [], ["x"], None, "tasks,x", "better-auth:session-cache")
        ]
        for each in others:
            prober.refuse(401, "unauthorized", "GET", TASKS, token=lab.context.mint(USER, **each))


@set_up("auth.issuer", "auth.audience", at_least=2)
def an_issuer_without_an_audience(lab: Lab) -> None:
    with lab.service(JWT_ISSUER="issuer") as prober:
        prober.accept(200, "GET", TASKS, token=lab.user(iss="issuer"))
        prober.refuse(401, "unauthorized", "GET", TASKS, token=lab.user(iss="issuer", aud="tasks").token)
