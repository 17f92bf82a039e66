"""What a finished build holds and how good it is: measured in one pass over its shards, and drawn as a page."""
