"""`gram-bench train`: each method trains until it stops getting better, and is judged as it goes."""
