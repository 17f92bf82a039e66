"""What every test starts from."""

from __future__ import annotations

import os

# pytest-xdist sets it, and the console of the command line would read it when it is imported.
os.environ.pop("COLUMNS", None)
