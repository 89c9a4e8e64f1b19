"""Probes of the log: one line for each request, with exactly the specified members."""

from tests.fuzz.access_log import check_access_log
from tests.fuzz.context import User
from tests.fuzz.prober import Prober, probe, valid
from tests.operations import OPERATIONS


@probe("process.logs", "process.logs.ascii", at_least=2 * len(OPERATIONS))
def every_request_in_the_log(prober: Prober) -> None:
    """Each request of the probes so far, and some more, has exactly one line, and the line is right."""
    user = User("fuzz-logged", prober.context.mint("fuzz-logged"))
    for operation in OPERATIONS:
        prober.request(operation.method, operation.url(), **valid(operation, user))
        prober.request(operation.method, operation.url(), **valid(operation, None))
    lines = check_access_log(prober, prober.context.log)
    prober.context.met[prober.current.name] = len(lines)
    too_long = sum(
        line["duration_ms"] > prober.sent[request_id].milliseconds + 1 for request_id, line in lines.items()
    )
    # A service may be interrupted between sending a response and taking the time.
    prober.expect(too_long <= len(lines) / 5, f"{too_long} durations are longer than the request took")
