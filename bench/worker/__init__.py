"""A worker process: one measurement, from its job to its record."""
