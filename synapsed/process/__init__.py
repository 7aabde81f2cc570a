"""The daemon as a process: its lock, logs, events, signals, clean stop and supervision."""
