"""What a model may call, and what it may not: a calculator, and a sandbox for the programs it writes."""
