"""Probes of the log: one line for each request, with exactly the specified members."""

from tests.fuzz.access_log import check_access_log
from tests.fuzz.prober import Prober, probe, valid
from tests.operations import OPERATIONS


@probe("process.logs", "process.logs.ascii", at_least=2 * len(OPERATIONS))
def every_request_in_the_log(prober: Prober) -> None:
    """Each request of the probes so far, and some more, has exactly one line, and the line is right."""
    for operation in OPERATIONS:
        prober.request(operation.method, operation.url(), **valid(operation, prober.context.owner))
        prober.request(operation.method, operation.url(), **valid(operation, None))
    prober.context.met[prober.current.name] = check_access_log(prober, prober.context.log)
