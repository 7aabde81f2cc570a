"""`synapsectl`: the command line over the control socket. docs/cli.md lists its commands."""
