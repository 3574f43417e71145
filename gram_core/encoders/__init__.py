"""Content encoders."""
