"""What a worker process loads once for a build: space, templates, sampler."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import lru_cache

from pipeline import storage
from pipeline.plan import BuildPlan
from preference_space.sampling import Sampler
from preference_space.space import PreferenceSpace, load_space
from prompts.renderer import Template, load_templates
from schemas.base import UserError


@dataclass(frozen=True)
class Resources:
    """Read from the build's folder, so that a remote worker needs nothing else."""

    space: PreferenceSpace
    templates: dict[str, Template]


@lru_cache(maxsize=4)
def resources(plan: BuildPlan) -> Resources:
    """The build's resources; loaded at the first call in a process. Raises `UserError` if they are not the build's."""
    # Beam's half a million objects will live as long as the process: the collector need not look at them again.
    gc.collect()
    gc.freeze()
    with (
        storage.local_copy(plan.output / "preference_space.yaml") as space,
        storage.local_folder(plan.output / "templates") as templates,
    ):
        loaded = Resources(load_space(space), load_templates(templates))
    _check(loaded, plan)
    return loaded


def _check(loaded: Resources, plan: BuildPlan) -> None:
    """Raise `UserError` where the folder holds something else than the build was checked and fingerprinted with."""
    found = {name: template.fingerprint for name, template in loaded.templates.items()}
    found["space"] = loaded.space.fingerprint
    for name, fingerprint in found.items():
        if fingerprint != plan.hashes.get(name):
            path = "preference_space.yaml" if name == "space" else f"templates/{name}.j2"
            raise UserError(
                f"{plan.output / path} was changed after the build began; put back what was there, or build into "
                "another --output"
            )


@lru_cache(maxsize=4)
def sampler(plan: BuildPlan) -> Sampler:
    """What draws the points of a build that samples."""
    return Sampler(resources(plan).space, plan.config.sampling, plan.config.seed)
