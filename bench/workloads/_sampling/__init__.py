"""Which examples, negatives and batches a step is given."""
