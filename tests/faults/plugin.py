"""`pytest -p tests.faults.plugin`: the tests run on a service with the fault that FAULT names."""

import os

from tests.faults.catalogue import FAULTS
from tests.faults.injection import inject

inject(FAULTS[os.environ["FAULT"]])
