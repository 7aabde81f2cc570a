"""What is told to everybody, performed: announcements and heartbeats on real streams."""
