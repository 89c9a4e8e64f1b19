"""A set-up in which a change must name the version that it replaces."""

from tests.fuzz.lab import Lab, set_up
from tests.fuzz.prober import JSON, if_match, valid
from tests.fuzz.probes.batch import BATCH, request_of
from tests.operations import CHANGING_ONE_TASK, RESTORE
from tests.support import TASKS


@set_up("http.preconditions.required", "batch.if-version", at_least=2 * len(CHANGING_ONE_TASK) + 7)
def changes_that_require_a_precondition(lab: Lab) -> None:
    with lab.service(REQUIRE_IF_MATCH="true") as prober:
        user = lab.user()
        for operation in (*CHANGING_ONE_TASK, RESTORE):
            created = prober.request("POST", TASKS, token=user, content=b'{"title": "New"}', headers=JSON)
            path, request = operation.url(created.json()["id"]), valid(operation, user)
            prober.refuse(428, "precondition-required", operation.method, path, **request)
            request = if_match(request, created.headers.get("ETag", ""))
            prober.accept(operation.status, operation.method, path, **request)
        task = prober.accept(201, "POST", TASKS, token=user, content=b'{"title": "New"}', headers=JSON).json()
        create = {"op": "create", "task": {"title": "New"}}
        for name, more in (("update", {"task": {"title": "x"}}), ("delete", {}), ("restore", {})):
            change = {"op": name, "id": task["id"], **more}
            request = request_of(user, create, change)
            refused = prober.refuse(428, "precondition-required", "POST", BATCH, **request)
            pointers = [each["pointer"] for each in refused.json().get("errors", ())]
            prober.expect(pointers == ["/operations/1"], f"the errors are at {pointers}", refused)
        request = request_of(user, create, {**change, "if_version": task["version"]}, atomic=True)
        prober.accept(200, "POST", BATCH, **request)
