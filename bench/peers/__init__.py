"""Other ways to train, to be compared with ours in one run: one file each, the file's name is the method's.

Written from their papers' mathematics, or calling the published library. A peer may also have:
- `requires()`, on the class: why it can't run here, with the command that mends it, or None. It is then skipped, as it
  is where it raises `bench.methods.Unavailable` when it is made, for an encoder that it cannot run.
- `handicaps`: in which respects it could not be given its best (`bench.limitations`); results carry those that hold.
- `ran`: by what way of its own it runs the encoder, where it does not take the engine's
  (`bench.results.analysis.tiers.Ran`).
- `kept_bytes`: what it keeps between steps besides weights and optimizer state, as encodings of earlier ones.
- `useful_flops(batches)`: operations per step, of a method that does not send whole texts through the encoder.
- `forward_only`: True where no pass of the encoder has a backward, for the count of operations.
"""
