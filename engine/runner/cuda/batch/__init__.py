"""The data of a step: its shape, the integers that the host writes, and what is shared or verified."""
