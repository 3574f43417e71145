"""Tests of what is foreseen before anything is trained."""
