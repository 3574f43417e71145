"""What tests of logs share: a tokenizer of words, and a request for a workload."""

from bench.workloads._base import HoldOut, WorkloadRequest


class Words:
    """Each word's number, in the order of first coming."""

    fingerprint = "words of a test"
    special_token_ids = frozenset()

    def __init__(self):
        self.known = {}

    def encode(self, texts):
        return [[self.known.setdefault(word, len(self.known)) for word in text.split()] for text in texts]


def request(task, *, hold_out=None, **changes):
    case = {"batch_size": 1, "history_length": 6, "text_length": 50, "seed": 0, "vocab_size": 500, "pad_token_id": 0}
    texts = {"closing_token_id": None, "candidates": 3, "task": task, "tokenizer": Words()}
    return WorkloadRequest(**{**case, **texts, "hold_out": hold_out and HoldOut(*hold_out), **changes})


def epoch(workload):
    return [workload.batches(step) for step in range(workload.steps_per_epoch)]


def scored(held_out):
    return [held_out.batches(step) for step in range(held_out.steps)]
