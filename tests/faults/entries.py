"""Reads `catalogue/`: mistakes that the tests and the contract fuzz must catch."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.environment import ROOT
from tests.planting import anchors
from tests.planting.anchors import Edit

CATALOGUE = Path(__file__).parent / "catalogue"


@dataclass(frozen=True)
class Fault:
    """One entry of the catalogue.

    `situation` of the fuzz and `tests`, a file or one test, run first. `not_fuzzable` says why
    the fuzz cannot catch the fault; it is empty if it must.
    """

    name: str
    edits: tuple[Edit, ...]
    theme: str
    situation: str = ""
    tests: str = ""
    not_fuzzable: str = ""

    @cached_property
    def modules(self) -> frozenset[str]:
        return frozenset(edit.path for edit in self.edits)

    @property
    def first_tests(self) -> list[str]:
        return [self.tests] if self.tests else []

    @cached_property
    def changed(self) -> Mapping[str, str]:
        """The new text of each file, by path. Raises anchors.NotAnchored."""
        texts: dict[str, str] = {}
        for edit in self.edits:
            text = texts.get(edit.path) or (ROOT / edit.path).read_text()
            texts[edit.path] = anchors.apply(edit, text)
        return texts


def _read() -> Iterator[Fault]:
    for file in sorted(CATALOGUE.glob("*.toml")):
        for entry in tomllib.loads(file.read_text())["fault"]:
            edits = tuple(_edit(entry["name"], each) for each in entry.pop("edit"))
            yield Fault(edits=edits, theme=file.stem, **entry)


def _edit(fault: str, entry: dict[str, str]) -> Edit:
    for prefix in ("", "sql_"):
        old, new = f"{prefix}old", f"{prefix}new"
        if entry.keys() == {"in", old, new}:
            return Edit(entry["in"], entry[old], entry[new], sql=bool(prefix))
    raise ValueError(
        f"An edit of the fault {fault!r} has the keys {', '.join(entry)}: it needs in, old and new."
    )


FAULTS = {fault.name: fault for fault in _read()}
