"""Deliberate bugs in the real source: each must be caught by the simulator or by a test."""
