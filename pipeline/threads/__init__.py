"""Threads of forums and datasets: read, joined, cleaned and indexed."""
