"""Never back-propagates into the encoder."""

from gram_core.methods.single_step import SingleStep


class FreezesTheEncoder(SingleStep):
    name = "freezes_the_encoder"

    def accumulate(self, batch):
        loss = super().accumulate(batch)
        for parameter in self.training.encoder.parameters():
            parameter.grad = None
        return loss
