"""Facts about this machine that decide which model it can serve."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.generation.device import Device, cpu_dtype, find_device, total_memory
from schemas.config import VllmEngine
from schemas.packaged_models import LARGE, cache_folder, is_fetched

_GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """A machine that may serve a model.

    Attributes:
        device: The CPU or GPU that serves it.
        dtype: Type in which the CPU computes, `bfloat16` or `float32`.
        memory: GiB of memory, within the limits of the container.
        free_disk: Free GiB of the cache's disk.
        has_large: Whether the cache holds the larger packaged model.
        has_vllm: Whether this Python has vLLM.
    """

    device: Device
    dtype: str
    memory: float
    free_disk: float
    has_large: bool
    has_vllm: bool

    @classmethod
    def current(cls, engine: VllmEngine) -> Self:
        """Return this machine."""
        return cls(
            device=find_device(engine),
            dtype=cpu_dtype(),
            memory=total_memory() / _GIB,
            free_disk=_free_disk(cache_folder()) / _GIB,
            has_large=is_fetched(LARGE),
            has_vllm=importlib.util.find_spec("vllm") is not None,
        )


def _free_disk(folder: Path) -> int:
    """Return the free bytes where `folder` is or would be made."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
