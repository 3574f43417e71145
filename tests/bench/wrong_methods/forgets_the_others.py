"""Exact in one process; among several it steps on its own users' gradients alone."""

from gram_core.methods.single_step import SingleStep


class ForgetsTheOthers(SingleStep):
    name = "forgets_the_others"
    distributes = True

    def step(self, batch):
        joint = self.training.optimization.joint
        if joint is not None:
            assert hasattr(joint, "reduced"), "nothing would be forgotten"
            joint.reduced = True
        return super().step(batch)
