"""Readers of users' files and Hub datasets: rows, values and texts."""
