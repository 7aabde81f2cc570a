"""What this daemon holds for others: how much, which copies, and what gives way first."""
