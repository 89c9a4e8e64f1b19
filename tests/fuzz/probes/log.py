"""Probes of the log: one line for each request, with exactly the specified members."""

from tests.fuzz.access_log import check_access_log
from tests.fuzz.prober import Prober, probe


@probe("process.logs", "process.logs.ascii", at_least=500)
def every_request_in_the_log(prober: Prober) -> None:
    """Each request of the probes so far has exactly one line, and the line is right."""
    prober.context.met[prober.current.name] = check_access_log(prober, prober.context.log)
