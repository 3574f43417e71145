"""Exact in one process; among several it steps on its own users' gradients alone."""

from gram_core.methods.single_step import SingleStep


class ForgetsTheOthers(SingleStep):
    name = "forgets_the_others"
    distributes = True

    def step(self, batch):
        self.training.optimization.reduced = True
        return super().step(batch)
