"""Roles of models in a build: one writes, one verifies. A judge of its own has a service of its own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from schemas.base import UserError
from schemas.config import BuildConfig, Engine, ReplayEngine, VllmEngine
from schemas.config.choices import ChoicesConfig

Role = Literal["generation", "verification"]


def engine_of(config: BuildConfig, role: Role) -> Engine:
    """Return the engine of a role. A replay is of the whole build."""
    own = config.verification.engine if role == "verification" else None
    return config.engine if own is None or isinstance(config.engine, ReplayEngine) else own


def model_of(config: BuildConfig, role: Role) -> str:
    """Return the model of a role."""
    return config.judge if role == "verification" else config.generation.model


def choices_of(config: BuildConfig, role: Role) -> ChoicesConfig | None:
    """Return how the model of a role is asked one-token questions; None where it is asked none."""
    if role == "verification":
        return config.verification
    mining = config.mining
    return mining.annotation if mining and mining.annotator == "choice" else None


def served_roles(config: BuildConfig) -> dict[Role, tuple[Role, ...]]:
    """Return the services of a build: the role that names each, and the roles whose requests it sends."""
    if not config.verification.is_on:
        return {"generation": ("generation",)}
    ours, theirs = ((engine_of(config, role), model_of(config, role)) for role in ("generation", "verification"))
    if ours == theirs:
        return {"generation": ("generation", "verification")}
    return {"generation": ("generation",), "verification": ("verification",)}


def managed_servers(config: BuildConfig) -> Sequence[tuple[Role, VllmEngine, str]]:
    """Return the model servers that the build itself runs: role, engine and model of each."""
    if not config.needs_model:
        return []
    found = [(role, engine_of(config, role), model_of(config, role)) for role in served_roles(config)]
    return [(role, engine, model) for role, engine, model in found if isinstance(engine, VllmEngine)]


def in_terms_of(message: str, role: Role, config: BuildConfig) -> str:
    """Return an error message with the keys that a role is configured by."""
    if role == "verification" or choices_of(config, "generation") is None:
        message = message.replace("mining.annotation.mode: json, or ", "")
        message = message.replace("mining.annotation.", "verification.")
    if role == "verification":
        # The judge's requests have no further fields.
        message = message.replace(" and generation.extra", "")
        message = re.sub(r"(?<![\w.:/-])generation\.model\b", "verification.model", message)
        message = re.sub(r"(?<![\w.:/-])engine(?=\.\w| vllm)", "verification.engine", message)
    return message


@contextlib.contextmanager
def naming_keys(role: Role, config: BuildConfig) -> Iterator[None]:
    """Have errors name the keys that a role is configured by."""
    try:
        yield
    except UserError as error:
        raise type(error)(in_terms_of(str(error), role, config)) from None
