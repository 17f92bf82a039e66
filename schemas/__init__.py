"""Typed records and configuration: what a seed post, a pair, an example and a build are. Imports nothing of ours."""

SCHEMA_VERSION = "7"
"""Version of the record layout and of the code that derives rows from a configuration. Part of every fingerprint:
raise it whenever the same configuration would give other rows."""
