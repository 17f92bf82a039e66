"""Good records, with fields replaced, and the columns of AlignX."""

from __future__ import annotations

from typing import Any

from schemas.records import Example, Pair, PairItem, UgcItem

ALIGNX_COLUMNS = [
    "prompt",
    "chosen",
    "rejected",
    "Preference Direction",
    "Demographic Information",
    "User-Generated Content",
    "Pair-wise Comparative Feedback",
]
"""To the letter, in the order of the release."""
DIRECTION, PORTRAIT, UGC, PAIR = ALIGNX_COLUMNS[3:]


def ugc(**changes: Any) -> UgcItem:
    fields: dict[str, Any] = {"prompt": "A cat?", "comment": "Yes, a cat.", "preference_direction": (1.0, 0.5, 0.5)}
    return UgcItem(**fields | changes)


def pair_item(**changes: Any) -> PairItem:
    fields: dict[str, Any] = {
        "prompt": "A dog?",
        "chosen": "No dog.",
        "rejected": "A dog!",
        "preference_direction": (0.5, 0.0, 1.0),
    }
    return PairItem(**fields | changes)


def example(**changes: Any) -> Example:
    fields: dict[str, Any] = {
        "prompt": "Which pet?",
        "chosen": "Take a cat.",
        "rejected": "Take a dog.",
        "preference_direction": (1.0, 0.0, 0.5),
        "demographic_information": "This person is young.",
        "user_generated_content": (ugc(),),
        "pairwise_feedback": (pair_item(),),
        "profile": "Young, Dislikes pets",
        "id": "e-1",
        "pair_id": "p-1",
        "post_id": "s-1",
        "mirrored": False,
        "source": "sampled",
        "topics": ("pets",),
        "history_support": 1.0,
        "model": "m",
        "kind": "opposite",
    }
    return Example(**fields | changes)


def pair(**changes: Any) -> Pair:
    fields: dict[str, Any] = {
        "pair_id": "p-1",
        "post_id": "s-1",
        "prompt": "Which pet?",
        "chosen": "A cat.",
        "rejected": "A dog.",
        "direction": (1, 0, -1),
        "topics": (),
        "source": "sampled",
        "model": "m",
        "attempt": 0,
        "prompt_tokens": 5,
        "completion_tokens": 7,
    }
    return Pair(**fields | changes)
