"""How Beam serialises a shard, should it ever have to: inside a fused stage it never does."""

from __future__ import annotations

import pickle

from apache_beam import coders

_ASSUMED_BYTES = 1 << 20


class ShardCoder(coders.Coder):
    """Pickle, with a guess instead of a measurement of the size.

    Beam samples the sizes of elements between fused stages, for its metrics, by encoding them: with shards of
    megabytes that was 8 % of a build's time.
    """

    def encode(self, value: object) -> bytes:
        """A shard as bytes."""
        return pickle.dumps(value)

    def decode(self, encoded: bytes) -> object:
        """A shard from bytes that a worker of the same build has encoded."""
        return pickle.loads(encoded)  # noqa: S301 - bytes of our own runner, never of a dataset

    def estimate_size(self, value: object) -> int:
        """A constant."""
        return _ASSUMED_BYTES

    def is_deterministic(self) -> bool:
        """Never a key."""
        return False


def register(*kinds: type) -> None:
    """Make Beam use this coder for these kinds of shard."""
    for kind in kinds:
        coders.registry.register_coder(kind, ShardCoder)
