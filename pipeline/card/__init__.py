"""The dataset card, made of the manifest and of the report."""
