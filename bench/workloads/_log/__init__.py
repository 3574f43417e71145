"""Interaction logs: kept in the cache, sorted by user, split, and turned into workloads."""
