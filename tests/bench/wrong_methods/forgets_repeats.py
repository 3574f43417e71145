"""Gives an item the gradient of one of its slots instead of their sum."""

import torch

from gram_core.methods.single_step import SingleStep


class ForgetsRepeats(SingleStep):
    name = "forgets_repeats"

    def encoding_gradient(self, encodings, gather, batch):
        loss, gradient = super().encoding_gradient(encodings, gather, batch)
        repeats = torch.unique(batch.items[batch.mask], return_counts=True)[1]
        return loss, gradient / repeats[:, None].to(gradient.device)
