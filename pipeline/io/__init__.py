"""Where files are: local folders and object stores, locks, shards, sealed JSON, manifests."""
