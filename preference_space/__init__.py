"""The typed preference space: dimensions, directions, sampling, coverage. Imports `schemas` only."""
