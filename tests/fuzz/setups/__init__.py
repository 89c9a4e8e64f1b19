"""Services in other set-ups, for every run of the contract fuzz.

Each module is about one kind of setting, or one server that the service depends on. A new
setting gets its set-up here: a function with `@set_up(<clauses>)` that starts services with
`lab.service(<SETTING>=<value>)` and sends requests with their probers.
"""

from tests.fuzz.lab import Lab, run
from tests.fuzz.setups import claims, cors, database, keys, limits, preconditions, quota, waiting

__all__ = ["Lab", "claims", "cors", "database", "keys", "limits", "preconditions", "quota", "run", "waiting"]
