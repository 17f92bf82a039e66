"""Scripts that print the figures of docs/benchmarks.md, with the machine and the command."""

from __future__ import annotations

import sys
from types import TracebackType


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report Ctrl-C as one line, with exit code 130, and other errors as usual."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(
        "stopped: run the same command again; it starts from the beginning unless its --help says that it resumes",
        file=sys.stderr,
    )
    raise SystemExit(130)


# Each benchmark is a script of this package. A hook also serves while a script still imports PyTorch or vLLM.
sys.excepthook = _report
