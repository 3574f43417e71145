"""Takes the pseudo-loss without its half, so that the encoder's gradient is twice too large."""

from gram_core.methods.single_step import SingleStep


class DropsTheHalf(SingleStep):
    name = "drops_the_half"

    def encoding_gradient(self, encodings, gather, batch):
        loss, gradient = super().encoding_gradient(encodings, gather, batch)
        return loss, 2 * gradient
