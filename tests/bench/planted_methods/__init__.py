"""Methods with a loss planted in them, for the gate to find: a package for `run.plugins`."""
