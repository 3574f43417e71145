"""What a step would take, before anything is trained: counts from the log, costs of the device, memory from shapes."""
