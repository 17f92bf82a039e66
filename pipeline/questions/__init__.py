"""Questions to a model about a reply, which mining and verification share."""
