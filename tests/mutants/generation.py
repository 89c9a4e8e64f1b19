"""All mutants of the product, each with a stable ID and its diff."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from tests.environment import ROOT
from tests.mutants.operators import OPERATORS
from tests.mutants.sites import sites
from tests.planting.modules import modules
from tests.planting.source import Edit, Source


@dataclass(frozen=True)
class Mutant:
    """`identity` is `path::function or class::operator::number`."""

    identity: str
    source: Source = field(repr=False, compare=False)
    edit: Edit = field(repr=False, compare=False)

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def text(self) -> str:
        return self.source.mutated(self.edit)

    @property
    def digest(self) -> str:
        """Of the file and the mutation: a result is valid until one of them changes."""
        return hashlib.sha256(self.source.data + repr(self.edit).encode()).hexdigest()[:16]

    @property
    def diff(self) -> str:
        before, after = (text.splitlines() for text in (self.source.data.decode(), self.text))
        lines = difflib.unified_diff(before, after, self.path, self.path, n=1, lineterm="")
        return "\n".join(line.rstrip() for line in lines)


@cache
def all_mutants() -> Mapping[str, Mutant]:
    found = (mutant for path in modules() for mutant in mutants(path, (ROOT / path).read_text()))
    return {mutant.identity: mutant for mutant in found}


def mutants(path: str, text: str) -> Iterator[Mutant]:
    source = Source(path, text)
    count: Counter[tuple[str, str]] = Counter()
    seen: set[Edit] = set()
    for site in sites(source.tree):
        for operator, mutate in OPERATORS.items():
            for candidate in mutate(source, site.node):
                edit = source.padded(candidate, site.statement)
                if edit is None or edit in seen:
                    continue
                seen.add(edit)
                count[site.name, operator] += 1
                number = count[site.name, operator]
                mutant = Mutant(f"{path}::{site.name or '<module>'}::{operator}::{number}", source, edit)
                if mutant.text != text:  # A weakened USING (true) is the same.
                    yield mutant
