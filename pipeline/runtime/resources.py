"""Space, templates and sampler, loaded once in each worker process of a build."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import lru_cache

from pipeline.plan import BuildPlan
from pipeline.runtime.inputs import read_space, read_templates
from preference_space.sampling import Sampler
from preference_space.space import PreferenceSpace
from prompts.renderer import Template


@dataclass(frozen=True)
class Resources:
    """A build's space and templates, read from its folder, so that a remote worker needs nothing else."""

    space: PreferenceSpace
    templates: dict[str, Template]
    style: str
    """`style` of the configuration."""

    def styled(self, name: str) -> Template:
        """Return the template `name` for sampled replies, in the build's style."""
        return self.templates[name if self.style == "peer" else f"{name}_{self.style}"]


@lru_cache(maxsize=4)
def resources(plan: BuildPlan) -> Resources:
    """Return the build's resources, loaded at the first call in a process.

    Raises `UserError` if a file is not the one that the build began with.
    """
    # Beam's half a million objects will live as long as the process: the collector need not look at them again.
    gc.collect()
    gc.freeze()
    templates = {name: digest for name, digest in plan.hashes.items() if name != "space"}
    space = read_space(plan.output, plan.hashes["space"])
    return Resources(space, read_templates(plan.output, templates), plan.config.style)


@lru_cache(maxsize=4)
def sampler(plan: BuildPlan) -> Sampler:
    """Return the sampler of a build's points."""
    return Sampler(resources(plan).space, plan.config.sampling, plan.config.seed)
