"""Proof that training teaches: a dataset whose replies carry their direction in known words."""
