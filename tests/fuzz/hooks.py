"""What the Schemathesis of `make fuzz` loads: the checks, behind the world that `live` made."""

from tests.fuzz.live import use_context_from_environment

use_context_from_environment()
