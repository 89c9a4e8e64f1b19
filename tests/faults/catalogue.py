"""The faults of `catalogue.toml`.

They prove the harness: whoever makes one of these mistakes must hear of it.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """In the file at `path`, `new` in place of `old`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """`unseen` says why the contract fuzz cannot notice it; else it has to."""

    name: str
    edits: tuple[Edit, ...]
    not_fuzzable: str = ""


def _read() -> dict[str, Fault]:
    document = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    faults = [
        Fault(each["name"], tuple(Edit(**edit) for edit in each["edit"]), each.get("not_fuzzable", ""))
        for each in document["fault"]
    ]
    return {fault.name: fault for fault in faults}


FAULTS = _read()
