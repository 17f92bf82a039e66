"""A judge asked about a sample of a finished build: the questions of verification, and persona swap."""
