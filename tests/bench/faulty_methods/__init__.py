"""Methods that fail in one way each: a package for `run.plugins`, as a user's own methods would be."""
