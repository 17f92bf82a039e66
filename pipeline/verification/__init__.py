"""Verification: a judge says what both replies of a sampled pair show, and filtering keeps that of the direction."""
