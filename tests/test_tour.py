from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from tests import ROOT


def test_the_tour_runs_and_is_stored_without_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, Any] = {}

    with mpl.rc_context({"backend": "agg"}):
        for cell in code:
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102 - our own notebook
        (axes,) = names["figure"].axes
        names["plt"].close(names["figure"])

    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)
    assert names["manifest"].counts.examples == sum(split.num_rows for split in names["dataset"].values())
    assert len(axes.patches) == 90
    assert max(bar.get_height() for bar in axes.patches) > 0
