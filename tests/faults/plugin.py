"""`pytest -p tests.faults.plugin`: injects the fault named by the variable FAULT."""

import os

from tests.faults.catalogue import FAULTS
from tests.faults.injection import inject

inject(FAULTS[os.environ["FAULT"]])
