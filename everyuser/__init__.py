"""Build personalised preference datasets from Python; `everyuser --help` shows the command line.

`build` and `read_manifest` need the extra `build`: `pip install 'everyuser[build]'`.

A configuration is a YAML file, or a mapping of the same keys; docs/config.md lists them. This one needs no model:

>>> config = {
...     "name": "tour",
...     "pairs": 32,
...     "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
...     "history": {"ugc": 1, "pair": 1, "min_support": 0},
...     "generation": {"model": "dummy"},
...     "engine": {"kind": "dummy"},
... }

Build it into a folder. The same call on the same folder resumes a build that was stopped, and returns one that is
complete.

>>> import everyuser
>>> manifest = everyuser.build(config, "out/tour")
>>> manifest.status, manifest.counts.pairs_accepted, manifest.counts.examples
('complete', 32, 64)

Each pair is two examples that mirror each other. Load them as any other dataset:

>>> from datasets import load_dataset
>>> example = load_dataset("out/tour", split="train")[0]
>>> sorted(example)[:4]
['Demographic Information', 'Pair-wise Comparative Feedback', 'Preference Direction', 'User-Generated Content']

The numbers of a direction follow the order of the space's dimensions: 1 and 0 for the poles, 0.5 for neutral.

>>> space = everyuser.open_space("alignx")
>>> len(space.dimensions) == len(example["Preference Direction"]) == 90
True

Later, or elsewhere, the manifest says what a folder holds:

>>> everyuser.read_manifest("out/tour").schema_version == everyuser.SCHEMA_VERSION
True

What a user can fix is a `UserError` of one line:

>>> try:
...     everyuser.build(config | {"pears": 32}, "out/other")
... except everyuser.UserError as error:
...     print("pears" in str(error))
True
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas import SCHEMA_VERSION
from schemas.base import UserError
from schemas.config import BuildConfig
from schemas.loader import build_config
from schemas.manifest import Manifest

if TYPE_CHECKING:
    from preference_space.space import PreferenceSpace

__all__ = ["SCHEMA_VERSION", "UserError", "__version__", "build", "open_space", "read_manifest"]

logger = logging.getLogger(__name__)

__version__ = importlib.metadata.version("everyuser")


def build(config: str | Path | Mapping[str, Any] | BuildConfig, folder: str | Path) -> Manifest:
    """Build a dataset, or resume the build in `folder`.

    Args:
        config: A YAML file (also in a bucket), `quickstart`, a mapping of keys, or a configuration. Relative paths in a
            file start from the file's folder, in a mapping from the working directory.
        folder: A folder of this machine, or an address such as `s3://bucket/folder`.

    Returns:
        The manifest of the complete build.

    Raises:
        UserError: The configuration is wrong, or the build failed for a reason that the user can fix. Finished work is
            kept.
    """
    from pipeline.build import build as run
    from pipeline.driver.configuration import read_config
    from pipeline.driver.quickstart import load_quickstart
    from pipeline.io.storage import parse

    if config == "quickstart":
        config, choice = load_quickstart((), parse(str(folder)))
        logger.info(choice)
    elif isinstance(config, str | Path):
        config = read_config(str(config))
    elif not isinstance(config, BuildConfig):
        config = build_config(dict(config), "config")
    return run(config, parse(str(folder)).absolute())


def open_space(name_or_path: str | Path) -> PreferenceSpace:
    """Return a packaged preference space, `alignx` or `alignx_plus`, or the one of a YAML file.

    Raises `UserError` for a wrong one.
    """
    from preference_space.space import load_space

    return load_space(name_or_path)


def read_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of a build. Raise `UserError` where there is none of this schema version."""
    from pipeline.io.manifests import load_manifest
    from pipeline.io.storage import parse

    return load_manifest(parse(str(folder)))
