"""The faults of `catalogue.toml`: mistakes that the tests and the contract fuzz must catch."""

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """Replaces `old` by `new` in the file at `path`."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """`not_fuzzable` says why the contract fuzz cannot catch it; empty if it must."""

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
