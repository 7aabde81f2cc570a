"""What everybody tells everybody: announcements, heartbeats, and what peers are worth."""
