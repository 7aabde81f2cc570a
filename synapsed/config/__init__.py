"""What may be set (`options`), where it was set (`load`), and what holds (`inforce`)."""
