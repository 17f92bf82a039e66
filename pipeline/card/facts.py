"""The facts about the making of a dataset on which the card's sentences depend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.io.manifests import MANIFEST
from schemas.config import PACKAGED, MiningConfig
from schemas.loader import validate
from schemas.manifest import Manifest

_DATASETS = {
    "ultrafeedback": "openbmb/UltraFeedback",
    "helpsteer2": "nvidia/HelpSteer2",
    "pku_saferlhf": "PKU-Alignment/PKU-SafeRLHF",
}


def facts_of(manifest: Manifest) -> dict[str, Any]:
    """Return the facts about the making of the pairs on which the card's sentences depend."""
    config = manifest.config
    mining = validate(MiningConfig, config["mining"], MANIFEST) if config["mining"] else None
    is_sampled = mining is None or mining.share < 1
    dataset = _DATASETS.get(mining.source.kind) if mining else None
    is_annotated = mining is not None and mining.annotator is not None
    writes = is_sampled or config["portrait"] != "template"
    history, verification = config["history"], config["verification"]
    has_histories = bool(history["ugc"] + history["pair"])
    kinds = config["kinds"]
    origins = [
        *(["drawn at random and acted out by a model"] if is_sampled else []),
        *(["inferred from single replies by a model"] if is_annotated else []),
        *(["taken from ratings of single responses"] if dataset else []),
        *(["taken from levels that came with single replies"] if mining and not dataset and not is_annotated else []),
    ]
    return {
        "mined": mining is not None,
        "sampled": is_sampled,
        "dataset": dataset,
        "annotated": is_annotated,
        # A published manifest has no engine; the configuration requires this model name for the dummy engine.
        "judge": _last_part(verification["model"] or config["generation"]["model"]),
        "verified": verification["mode"] != "off",
        "dummy": config["generation"]["model"] == "dummy",
        "writes": writes,
        "histories": has_histories,
        "users": config["users"] if config["persona"] == "users" else None,
        "matched": has_histories and (config["persona"] == "matched" or mining is not None),
        "seen_users": config["splits"]["test_seen_users"] > 0,
        "near": is_sampled and kinds["near"] > 0,
        "restraint": is_sampled and kinds["restraint"] > 0,
        "strict": mining is None or history["consistency"] == "strict",
        "scrubbed": mining is not None and mining.scrub,
        "own_posts": is_sampled and config["seeds"]["path"] != PACKAGED,
        "origins": origins,
        "phase_two": "histories, portrait" if has_histories else "portrait",
        "model": _last_part(config["generation"]["model"]) if writes or is_annotated else None,
        "space": _last_part(config["space"]),
    }


def rule_names(rules: dict[str, Any]) -> list[str]:
    """Return the words for replies that the rules reject."""
    return [
        *("empty", "cut off", "too short", "too long", "repetitive"),
        *(["refusals or talk about the task"] if rules["refusals"] else []),
        *(["full of markup"] if rules["markup"] else []),
        *([f"not in the language '{rules['language']}'"] if rules["language"] else []),
        *("copied from the prompt", "nearly equal", "too different in length"),
    ]


def _last_part(name: str) -> str:
    """Return a name, or the last part of a path, whose folders are private."""
    return Path(name).name if Path(name).is_absolute() else name
