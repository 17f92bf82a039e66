"""Entry point of the command `everyuser`: a module that imports nothing, so that Ctrl-C ends also the imports."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Ctrl-C before it is imported ends in one line, with exit code 130."""
    try:
        from pipeline.cli import main as run
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)  # noqa: T201 - the console is not imported yet
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
