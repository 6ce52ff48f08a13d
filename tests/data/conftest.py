"""Lets the tests of the data path use the fakes that the contract suites prove."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
