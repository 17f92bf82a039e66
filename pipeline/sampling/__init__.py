"""Seed posts, and pairs sampled from the preference space."""
