"""Who fetches which tiles from whom, and who keeps copies of what."""
