"""How it happens: trio, libp2p, disk and the control socket."""
