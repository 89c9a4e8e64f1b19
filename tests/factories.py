"""Request bodies. Unknown field names raise TypeError."""

from collections.abc import Mapping
from typing import Any, ClassVar

from factory.base import DictFactory
from factory.declarations import List, Sequence

from schemas import TaskCreate, TaskUpdate

Body = dict[str, Any]


def new_task(**fields: object) -> Body:
    """A body with only the required fields."""
    return NewTask.as_body(fields)


def full_task(**fields: object) -> Body:
    """A body in which no writable field has its default value."""
    return FullTask.as_body(fields)


def task_patch(**fields: object) -> Body:
    """A patch with only the given fields."""
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
