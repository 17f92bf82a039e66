"""Tests, in folders named after the packages that they test."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The project's folder."""
