"""Worlds of many peers: real daemons on one machine, and what befalls them."""
