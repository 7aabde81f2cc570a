"""What an upgrade may replace: the slots, their ABI and invariants, and what a module may be."""
