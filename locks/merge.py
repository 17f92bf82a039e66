"""Merge the locks of several Python versions into one: `python locks/merge.py 3.11=FILE 3.12=FILE ... > LOCK`.

`uv pip compile --universal` finds no lock with vLLM in it: for s390x vLLM's requirements contradict Beam's.
"""

from __future__ import annotations

import sys
from pathlib import Path


def merged(locks: dict[str, str]) -> str:
    """Return the lines of all `locks` (by Python version); a line that some lack says which Python versions need it."""
    versions: dict[str, list[str]] = {}
    for version, text in locks.items():
        for line in text.splitlines():
            versions.setdefault(line, []).append(version)
    comments = [line for line in versions if line.startswith("#")]
    pins = [
        line if len(having) == len(locks) else f"{line} ; python_version in '{' '.join(having)}'"
        for line, having in sorted(versions.items(), key=lambda item: item[0].split("=="))
        if not line.startswith("#")
    ]
    return "\n".join([*comments, *pins]) + "\n"


if __name__ == "__main__":
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    sys.stdout.write(merged({version: Path(path).read_text(encoding="utf-8") for version, path in given.items()}))
