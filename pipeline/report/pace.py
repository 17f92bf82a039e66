"""Pace of the build, from the notes of its driver (`pipeline.runtime.progress.Pace`)."""

from __future__ import annotations

import numpy as np

from pipeline.io.storage import AnyPath
from pipeline.runtime.progress import read_notes
from schemas.report import PacePoint

_POINTS = 300


def read_pace(folder: AnyPath) -> tuple[PacePoint, ...]:
    """Return the build's pace over all runs in at most 300 points; empty without notes."""
    points: list[PacePoint] = []
    before = last = PacePoint(seconds=0, pairs=0, prompt_tokens=0, completion_tokens=0)
    run = None
    for entry in read_notes(folder):
        if entry["run"] != run:
            run, before = entry["run"], last
        last = PacePoint(
            seconds=before.seconds + entry["seconds"],
            # Pairs that a killed run settled but did not store are settled again from the journal.
            pairs=max(last.pairs, entry["pairs"]),
            prompt_tokens=before.prompt_tokens + entry["prompt_tokens"],
            completion_tokens=before.completion_tokens + entry["completion_tokens"],
        )
        points.append(last)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _POINTS)).round().astype(int))
    return tuple(points[k] for k in chosen)
