"""From dumps of forums to joined, cleaned threads."""
