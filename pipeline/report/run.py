"""`everyuser report`: measure a build, and put what was found where people look."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.card import write_card
from pipeline.locks import locked
from pipeline.report.figures import write_figures
from pipeline.report.measure import measure
from pipeline.report.page import write
from pipeline.report.settings import ReportSettings
from pipeline.report.source import open_build
from pipeline.storage import AnyPath
from schemas.report import Report


def write_report(folder: AnyPath, settings: ReportSettings, progress: Callable[[str, int, int], None]) -> Report:
    """Write `report.html`, `report.json` and `figures/` into a finished build's folder, and their gist into its card.

    Raises `UsageError` where there is no finished build.
    """
    # A folder that is not ours gets no lock.
    manifest = open_build(folder).manifest
    with locked(folder):
        report = measure(folder, settings, progress)
        write(report, folder)
        write_card(folder, manifest, report, write_figures(report, folder))
    return report
