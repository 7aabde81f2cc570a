"""Moving blocks and sub-tiles between peers, verified before a byte is kept."""
