"""Set-ups with other origins."""

from tests.fuzz.lab import Lab, set_up
from tests.fuzz.prober import Prober
from tests.support import ORIGIN, TASKS

PREFLIGHT = (("Access-Control-Request-Method", "PATCH"), ("Access-Control-Request-Headers", "authorization"))
OTHER = "http://localhost:3000"


def expect_refused(prober: Prober, origin: str, lab: Lab) -> None:
    prober.accept(200, "GET", TASKS, token=lab.context.owner, origin=origin)
    refused = prober.accept(400, "OPTIONS", TASKS, headers=PREFLIGHT, origin=origin)
    prober.expect("access-control-allow-origin" not in refused.headers, f"{origin} is allowed", refused)


@set_up("cors.refused", "cors.preflight", at_least=4)
def no_origin_at_all(lab: Lab) -> None:
    with lab.service(CORS_ORIGINS="") as prober:
        prober.allowed_origins = ()
        for origin in (ORIGIN, OTHER):
            expect_refused(prober, origin, lab)


@set_up("cors.allowed", "cors.preflight", at_least=4)
def several_origins(lab: Lab) -> None:
    with lab.service(CORS_ORIGINS=f"{ORIGIN}, {OTHER}") as prober:
        prober.allowed_origins = (ORIGIN, OTHER)
        for origin in (ORIGIN, OTHER):
            answer = prober.accept(200, "GET", TASKS, token=lab.context.owner, origin=origin)
            allowed = answer.headers.get("access-control-allow-origin")
            prober.expect(allowed == origin, f"the allowed origin is {allowed!r}", answer)
            prober.accept(204, "OPTIONS", TASKS, headers=PREFLIGHT, origin=origin)
        expect_refused(prober, "http://localhost:30000", lab)
