"""Files and datasets of users, read row by row into values."""
