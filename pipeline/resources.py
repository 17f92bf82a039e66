"""What a worker process loads once for a build: space, templates, sampler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipeline.plan import BuildPlan
from preference_space.sampling import Sampler
from preference_space.space import PreferenceSpace, load_space
from prompts.renderer import Template, load_templates


@dataclass(frozen=True)
class Resources:
    """Read from the build's folder, so that a remote worker needs nothing else."""

    space: PreferenceSpace
    templates: dict[str, Template]
    sampler: Sampler


@lru_cache(maxsize=4)
def resources(plan: BuildPlan) -> Resources:
    """The build's resources; loaded at the first call in a process."""
    space = load_space(plan.output / "preference_space.yaml")
    sampler = Sampler(space, plan.config.sampling, plan.config.seed)
    return Resources(space, load_templates(plan.output / "templates"), sampler)
