"""Loaded by Schemathesis in `make fuzz`: registers the checks with the context of `live`."""

from tests.fuzz.live import use_context_from_environment

use_context_from_environment()
