"""What is said and decided: pure. No clock, no I/O, no randomness of its own."""
