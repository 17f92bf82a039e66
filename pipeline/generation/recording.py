"""The recorded replies of the quickstart by the larger packaged model, which are shipped with everyuser.

`engine: {kind: replay, journal: packaged}` replays them on any machine, without a model. `make record-demo` builds the
quickstart with the real model and calls this module, which packs the build's journal.
"""

from __future__ import annotations

import datetime
import gzip
import platform
import shutil
import sys
from pathlib import Path

from pipeline.generation.journal import journal_line, read_journal
from pipeline.io import storage
from pipeline.io.manifests import load_manifest
from pipeline.io.storage import AnyPath
from schemas.base import UsageError, UserError
from schemas.config import PACKAGED, BuildConfig, ReplayEngine
from schemas.manifest import Manifest, Recording

RECORDED = Path(__file__).with_name("recorded")
_JOURNAL = "journal"
_ABOUT = "about.json"


def replays_recording(config: BuildConfig) -> bool:
    """Return whether a build replays the packaged recording."""
    return isinstance(config.engine, ReplayEngine) and config.engine.journal == PACKAGED


def replayed_journal(config: BuildConfig) -> AnyPath | None:
    """Return the folder of the journal that a build replays; None where it asks a model."""
    if not isinstance(config.engine, ReplayEngine):
        return None
    return RECORDED / _JOURNAL if replays_recording(config) else storage.parse(config.engine.journal)


def check_replay(config: BuildConfig) -> None:
    """Raise `UsageError` where a build would replay a folder that holds no journal, before it begins."""
    folder = replayed_journal(config)
    if folder is None or replays_recording(config) or not config.needs_model:
        return
    names = storage.list_names(folder)
    if not any(name.endswith((".jsonl", ".jsonl.gz")) for name in names):
        wanted = f"{folder / _JOURNAL}" if _JOURNAL in names else "the folder `journal` of a finished build"
        raise UsageError(f"engine.journal: {folder} holds no journal (no .jsonl file there); name {wanted}")


def read_recording() -> Recording:
    """Return what is known about the recording. Raise `UserError` where everyuser was packed without one."""
    try:
        return Recording.model_validate_json((RECORDED / _ABOUT).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{RECORDED} has no recorded replies; in a clone of everyuser run: make record-demo") from None


def record(build: Path, folder: Path = RECORDED) -> Recording:
    """Pack the journal of a finished build, and what is known about it, into `folder`.

    Equal outcomes make equal files: lines are in the order of their keys, and files hold no time.
    """
    manifest = load_manifest(build)
    if manifest.status != "complete" or manifest.recording is not None:
        raise UserError(f"{build}: not a finished build by a model; run the build first")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / _JOURNAL).mkdir(parents=True)
    for path in sorted((build / "journal").glob("*.jsonl")):
        lines = b"".join(journal_line(key, outcome) for key, outcome in sorted(read_journal(path).items()))
        (folder / _JOURNAL / f"{path.name}.gz").write_bytes(gzip.compress(lines, mtime=0))
    recording = _describe(manifest)
    (folder / _ABOUT).write_text(recording.model_dump_json(indent=2) + "\n")
    return recording


def _describe(manifest: Manifest) -> Recording:
    return Recording(
        model=manifest.config["generation"]["model"],
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions={"python": platform.python_version(), **manifest.versions},
        pairs=manifest.counts.pairs_asked,
        pairs_accepted=manifest.counts.pairs_accepted,
        examples=manifest.counts.examples,
        rejected=manifest.counts.rejected,
    )


if __name__ == "__main__":
    try:
        found = record(Path(sys.argv[1]))
    except UserError as problem:
        sys.exit(f"error: {problem}")
    sys.stdout.write(f"recorded {found.pairs_accepted} pairs of {found.model} into {RECORDED}\n")
