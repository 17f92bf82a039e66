"""How a build runs on Beam: runners, workers, what they load and count, and what a shard leaves on disk."""
