"""Methods that see their neighbours, for tests of paired blocks."""
