"""The control socket: HTTP over a Unix socket, for the owner of this daemon only."""
