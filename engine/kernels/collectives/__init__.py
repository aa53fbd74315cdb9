"""Collectives inside a step, in memory that all ranks can read and write (`engine/distributed/symmetric_memory.py`).

The collectives of a step are numbered from 1 (`seq`); `epoch` counts those of all steps before. Ranks wait for one
another in one of two ways: by flags (`signals.py`), or by numbers inside the data (`packets.py`).

Partial sums alternate between two buffers, which is enough: a rank that writes the first one again has waited for all
ranks to reach the second, so they have finished reading the first. All ranks add in the same order, so all get the same
bits.
"""
