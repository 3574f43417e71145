"""Tests of bench.training and bench.metrics."""
