"""Other ways to train, to be compared with ours in one run: one file each, the file's name is the method's.

Written from their papers' mathematics, or calling the published library. What a peer may tell of itself besides
(`requires`, `handicaps`, `ran`, `kept_bytes`, `useful_flops`, `forward_only`) is in `gram_core.methods._base`.
One whose `requires()` gives a reason is skipped, as is one that raises `bench.methods.Unavailable` when it is made, for
an encoder that it cannot run.
"""
