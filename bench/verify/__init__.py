"""`gram-bench verify`: are the exact methods exact, on the user's own encoder and data?"""
