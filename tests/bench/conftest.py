"""Fixtures of tests that compute in this process."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """One thread to compute with, whatever a measurement in this process set before or sets now."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
