"""The compute worker: the one home of torch. Started as a process, never imported by the daemon."""
