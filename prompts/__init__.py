"""Prompt templates as files, and the strict renderer. Imports `schemas` only."""
