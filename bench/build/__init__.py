"""From a configuration to what a worker steps on: workload, encoder, CF module, method, optimizers."""
