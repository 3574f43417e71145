"""Clips encoder and CF module each by itself where end-to-end training clips both together."""

from gram_core.methods.single_step import SingleStep


class ClipsApart(SingleStep):
    name = "clips_apart"

    def step(self, batch):
        loss = self.accumulate(batch)
        self.training.optimization.step_cf()
        self.training.optimization.step_encoder()
        return loss
