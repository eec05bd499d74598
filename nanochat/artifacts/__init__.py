"""What is kept of a stage: files under an address, their digests, metrics, leases, and which code made them."""
