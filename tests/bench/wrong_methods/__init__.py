"""Methods that claim to be exact and are not: a package for `run.plugins`, for verification to find out."""
