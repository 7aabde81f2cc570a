"""The node's side of the compute worker: starting it, asking it, ending it within a second."""
