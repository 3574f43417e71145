"""Is exact in its first step and, from the second on, moves the encoder by the gradient of the step before."""

from gram_core.methods.single_step import SingleStep


class Ages(SingleStep):
    name = "ages"

    def __init__(self, training, settings=None):
        super().__init__(training, settings)
        self.earlier = None

    def accumulate(self, batch):
        loss = super().accumulate(batch)
        now = [p.grad if p.grad is None else p.grad.clone() for p in self.training.encoder.parameters()]
        if self.earlier is not None:
            for parameter, gradient in zip(self.training.encoder.parameters(), self.earlier, strict=True):
                parameter.grad = gradient
        self.earlier = now
        return loss
