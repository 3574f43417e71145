"""Gradients of the embedding's tables, written out, are those of autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gram_core.batch import Texts
from gram_core.kernels.embedding import EmbeddingWeights, embed, embed_backward
from gram_core.packing import pack

PADDING = 3


@pytest.mark.parametrize("ignored", [PADDING, -1])
def test_words_are_added_to_what_was_there_but_for_a_padding_token_within_a_text(ignored: int) -> None:
    """Chunks add to one sum; and torch gives a padding token's row no gradient, wherever the token stands."""
    torch.manual_seed(0)
    tokens, lengths = torch.tensor([5, PADDING, 7, 5, PADDING, 9]), torch.tensor([4, 2])
    words, positions, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((11, 6), (8, 6), (6,), (6,))
    )
    places = torch.tensor([0, 1, 2, 3, 0, 1])
    looked_up = F.embedding(tokens, words, padding_idx=None if ignored < 0 else ignored) + positions[places]
    expected = F.layer_norm(looked_up, (6,), weight, bias, 1e-5)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)

    given = EmbeddingWeights(words, positions, None, weight, bias, 1e-5, first_position=0, ignored=ignored)
    packed = pack(Texts(tokens, lengths), 8, 0, None, None)
    before, partials = torch.randn(11, 6, dtype=torch.float64), torch.empty(1, 12, dtype=torch.float64)
    tables = before.clone(), torch.full((8, 6), torch.nan, dtype=torch.float64)
    with torch.no_grad():
        rows, statistics = embed(packed, given, torch.float64)
        embed_backward(gradient, None, packed, statistics, given, partials, tables, text_length=8)
    torch.testing.assert_close(rows, expected.detach())
    torch.testing.assert_close(tables[0] - before, words.grad)
    torch.testing.assert_close(tables[1], positions.grad)
    torch.testing.assert_close(partials[0], torch.cat([weight.grad, bias.grad]))
