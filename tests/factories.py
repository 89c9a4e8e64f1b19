"""Bodies for requests. A name that a body does not have is an error, not a silent extra."""

from collections.abc import Mapping
from typing import Any, ClassVar

from factory.base import DictFactory
from factory.declarations import List, Sequence

from schemas import TaskCreate, TaskUpdate

Body = dict[str, Any]


def new_task(**fields: object) -> Body:
    """The least that makes a task."""
    return NewTask.as_body(fields)


def full_task(**fields: object) -> Body:
    """A task in which no writable field has its default."""
    return FullTask.as_body(fields)


def task_patch(**fields: object) -> Body:
    """Only what is named."""
    return TaskPatch.as_body(fields)


class BodyFactory(DictFactory):
    """A dictionary with the fields of a model, and no other."""

    class Meta:
        abstract = True

    _fields: ClassVar[Mapping[str, object]] = {}

    @classmethod
    def as_body(cls, fields: Mapping[str, object]) -> Body:
        unknown = fields.keys() - cls._fields.keys()
        if unknown:
            raise TypeError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
        return dict(cls.build(**fields))


class NewTask(BodyFactory):
    _fields = TaskCreate.model_fields

    title = Sequence(lambda number: f"Task {number}")


class FullTask(NewTask):
    description = "With a description — in full."
    completed = True
    priority = "high"
    due_at = "2030-05-17T08:00:00.25+02:00"
    tags = List(["home", "garden"])


class TaskPatch(BodyFactory):
    _fields = TaskUpdate.model_fields
