"""`everyuser report`: measure a build, and write the report into its folder."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.io.storage import AnyPath
from pipeline.report.figures import write_figures
from pipeline.report.measure import measure
from pipeline.report.page import write_page
from pipeline.report.settings import ReportSettings
from schemas.report import Figure, Report


def write_report(
    folder: AnyPath, settings: ReportSettings, progress: Callable[[str, int, int], None]
) -> tuple[Report, tuple[Figure, ...]]:
    """Write `report.html`, `report.json` and `figures/` into a finished build's folder.

    Args:
        folder: The build's output folder; the caller must hold its lock.
        settings: Sizes of samples, benchmarks and prices.
        progress: Receives the steps.

    Returns:
        The report and its pictures, for the card.

    Raises:
        UsageError: There is no finished build, a shard is missing or damaged, or a benchmark cannot be read.
    """
    report = measure(folder, settings, progress)
    write_page(report, folder)
    return report, write_figures(report, folder)
