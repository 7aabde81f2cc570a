"""What the owner asks of the daemon, through its control socket."""
