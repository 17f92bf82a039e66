"""The report of a finished build: figures measured in one pass over its shards, and a page that shows them."""
