"""The engine without a model: replies are words of a list, the same for the same request.

They pass every rule, so a build with them measures the pipeline alone, at any size.
"""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline.generation.completions import OPTIONS, AnyRequest, ChoiceRequest, Completion, Failure, Outcome

_TEXT = """
again almost always autumn balcony basket before bicycle bottle bread brother candle carpet chance cheese city corner
cousin evening family field forest friend garden gentle harbour honest kitchen lantern letter library little market
meadow minute morning mother mountain music neighbour ocean orange paper patient pencil picture pillow pocket quiet
rather river saddle season sister slowly spoon station street summer sunday table teacher thunder ticket train village
"""
_WORDS = _TEXT.split()
_LENGTH = 24


def complete(request: AnyRequest) -> Outcome:
    """Return the outcome of a request. A request for JSON fails, as words fit no schema."""
    if isinstance(request, ChoiceRequest):
        return Completion(_choices(request), "stop", 0, 0)
    if "response_format" in request.fields:
        return Failure("dummy", "engine 'dummy' writes no JSON", may_pass=False)
    draws = hashlib.shake_128(request.key.encode()).digest(_LENGTH)
    words = [_WORDS[draw % len(_WORDS)] for draw in draws]
    return Completion(f"Reply {request.key[:16]} says {' '.join(words)}.", "stop", 0, 0)


def _choices(request: ChoiceRequest) -> str:
    """Return confident answers to all questions, encoded as by `ChoiceRequest.read`."""
    draws = hashlib.shake_128(request.key.encode()).digest(request.sequences)
    favourite = np.frombuffer(draws, dtype=np.uint8) % len(OPTIONS)
    return (230 * np.eye(len(OPTIONS), dtype=np.uint8)[favourite]).tobytes().hex()
