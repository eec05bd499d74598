"""What changes weights: the loop, its state and checkpoints, the optimizers, schedules, and the ranks."""
