"""The harness: what to measure, in fresh processes, how, and what is left behind."""
