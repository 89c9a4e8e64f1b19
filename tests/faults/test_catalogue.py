"""The catalogue itself: every entry can be planted, and every module has some."""

import ast
from collections import Counter

import pytest

from tests.environment import ROOT
from tests.faults.entries import CATALOGUE, FAULTS, Fault
from tests.fuzz import probes, setups  # noqa: F401 - declare the situations
from tests.fuzz.lab import SET_UPS
from tests.fuzz.prober import PROBES
from tests.planting.modules import modules

IN_ALL = 150
IN_EACH_MODULE = 4
WITH_FEWER = {
    "observability/request_context.py": (2, "a data class and a context variable"),
}
"""The modules with fewer faults than the others, how many they have, and why."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_can_be_planted(fault: Fault) -> None:
    """Its places exist, and the changed files compile and differ from the originals."""
    for path, text in fault.changed.items():
        compile(text, path, "exec", dont_inherit=True)
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse((ROOT / path).read_text()))


def test_names_and_changes_are_unique() -> None:
    assert len(FAULTS) == sum(file.read_text().count("\n[[fault]]\n") for file in CATALOGUE.glob("*.toml"))
    changes = Counter(frozenset(fault.changed.items()) for fault in FAULTS.values())
    assert max(changes.values()) == 1


def test_every_module_has_enough_faults() -> None:
    count = Counter(module for fault in FAULTS.values() for module in fault.modules)
    assert set(count) <= {*modules()}
    assert len(FAULTS) >= IN_ALL
    fewer = {module: count[module] for module in modules() if count[module] < IN_EACH_MODULE}
    assert fewer == {module: number for module, (number, _) in WITH_FEWER.items()}


def test_what_runs_first_exists() -> None:
    known = {*PROBES, *SET_UPS, ""}
    assert {fault.situation for fault in FAULTS.values()} <= known
    for fault in FAULTS.values():
        file, _, test = fault.tests.partition("::")
        expected = f"def {test}(" if test else ""
        assert not file or expected in (ROOT / file).read_text(), fault.name
