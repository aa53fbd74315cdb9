"""The parts of a step's forward pass: attention, products, experts, and the sums over ranks."""
