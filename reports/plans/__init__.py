"""The page of `gram-bench plan`."""
