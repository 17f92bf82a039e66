"""Serialisation of shards, which Beam needs between stages that are not fused."""

from __future__ import annotations

import pickle

from apache_beam import coders

_ASSUMED_BYTES = 1 << 20


class ShardCoder(coders.Coder):
    """A pickle coder that does not measure the size of an element.

    Beam encodes elements between fused stages to sample their sizes for its metrics. With shards of megabytes that
    takes a notable part of a build's time (design.md, decision 13).
    """

    def encode(self, value: object) -> bytes:
        """Return a shard as bytes."""
        return pickle.dumps(value)

    def decode(self, encoded: bytes) -> object:
        """Return a shard from bytes that a worker of the same build encoded."""
        return pickle.loads(encoded)  # noqa: S301 - bytes of our own runner, never of a dataset

    def estimate_size(self, value: object) -> int:
        """Return a constant."""
        return _ASSUMED_BYTES

    def is_deterministic(self) -> bool:
        """Return False: a shard is never a key."""
        return False


def register(*kinds: type) -> None:
    """Register this coder with Beam for the given kinds of shard."""
    for kind in kinds:
        coders.registry.register_coder(kind, ShardCoder)
