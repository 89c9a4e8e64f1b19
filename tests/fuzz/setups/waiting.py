"""A set-up of two processes, in one of which requests wait for changes."""

import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.fuzz.context import User
from tests.fuzz.lab import Lab, set_up
from tests.fuzz.prober import JSON, Options
from tests.support import TASKS

CHANGES = f"{TASKS}/changes"
LONG = 25
"""Seconds, the longest wait."""
OF_A_USER = 10


@set_up("changes.wait", "changes.wait.prompt", "changes.wait.bounds", "changes.wait.ends", at_least=6)
def requests_that_wait_for_a_change(lab: Lab) -> None:
    with (
        lab.service(MAX_WAITING_REQUESTS=str(OF_A_USER), DB_POOL_SIZE="2") as here,
        lab.service() as there,
        ThreadPoolExecutor(OF_A_USER + 1) as threads,
    ):
        user, other = lab.user(), lab.user()
        new: Options = {"token": user, "content": b'{"title": "New"}', "headers": JSON}
        for _ in ("before the first task", "after it"):
            since = here.accept(200, "GET", CHANGES, token=user).json()["position"]
            headers = {"Authorization": f"Bearer {user.token}"}
            url = f"{CHANGES}?since={since}&wait={LONG}"
            waiting = {threads.submit(here.client.get, url, headers=headers) for _ in range(OF_A_USER + 1)}
            one_too_many = next(as_completed(waiting))
            refused = one_too_many.result()
            policy = refused.headers.get("RateLimit-Policy")
            expected = f'"concurrent-waits";q={OF_A_USER};qu="concurrent-requests"'
            here.expect((refused.status_code, policy) == (429, expected), f"a wait too many: {policy}")
            here.refuse(503, "unavailable", "GET", f"{CHANGES}?wait=1", token=other)
            task = there.accept(201, "POST", TASKS, **new).json()
            for each in waiting - {one_too_many}:
                found = each.result().json().get("tasks")
                here.expect(found == [task], f"a request that waited has {found}")
        began_at = time.monotonic()
        brief = User(other.id, here.context.mint(other.id, exp=int(time.time()) - 25))
        unchanged = here.accept(200, "GET", f"{CHANGES}?wait={LONG}", token=brief)
        here.expect(unchanged.json()["tasks"] == [], "there are tasks without a change", unchanged)
        here.expect(time.monotonic() - began_at < LONG / 2, "a wait outlives its token", unchanged)
