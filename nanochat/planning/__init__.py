"""What is told before work: refusals, prices, minutes."""
