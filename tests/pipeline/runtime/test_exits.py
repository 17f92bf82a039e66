from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

CODE = """
import atexit, sys, threading
from pathlib import Path
from pipeline.runtime.exits import end_process
class Finalized:
    def __del__(self):
        Path(sys.argv[1]).write_text("finalized")
kept = Finalized()
atexit.register(print, "registered")
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("said", end=" ")
end_process(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [0, 130])
def test_a_process_ends_without_finalization_and_loses_no_output(tmp_path: Path, code: int) -> None:
    command = [sys.executable, "-c", CODE, str(tmp_path / "finalized"), str(code)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (code, "said registered\n", "")
    assert not (tmp_path / "finalized").exists()
