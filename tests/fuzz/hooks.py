"""What the Schemathesis of `make fuzz` loads: the checks, behind the world that `live` made."""

from tests.fuzz.live import begin_here

begin_here()
