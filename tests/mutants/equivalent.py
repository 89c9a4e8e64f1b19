"""Reads `equivalent.toml`: mutants that behave like the original, and those that the fuzz cannot see."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

_document = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())

EQUIVALENT: Mapping[str, str] = {each["id"]: each["reason"] for each in _document["equivalent"]}
"""Reasons by the ID of the mutant."""

NOT_OBSERVABLE: Mapping[str, str] = {each["prefix"]: each["reason"] for each in _document["not_observable"]}
"""Reasons by the beginning of the ID: neither a response nor the log shows the mutation."""


def not_observable(identity: str) -> str | None:
    return next((NOT_OBSERVABLE[each] for each in NOT_OBSERVABLE if identity.startswith(each)), None)
