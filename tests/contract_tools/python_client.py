"""Calls the API with the client that openapi-python-client generates, and writes the ID of the new task.

test_clients.py copies this file into the folder in which the client is.
"""

import sys

from tasks_client import AuthenticatedClient
from tasks_client.api.tasks import create_task, update_task
from tasks_client.models import TaskCreate, TaskRead, TaskUpdate


def main(base_url: str, token: str) -> None:
    client = AuthenticatedClient(base_url, token)
    created = create_task.sync(client=client, body=TaskCreate(title="Water the plants"))
    assert isinstance(created, TaskRead)
    updated = update_task.sync(created.id, client=client, body=TaskUpdate(completed=True))
    assert isinstance(updated, TaskRead)
    title: str = updated.title
    completed: bool = updated.completed
    assert (title, completed) == ("Water the plants", True)
    sys.stdout.write(f"{updated.id}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
