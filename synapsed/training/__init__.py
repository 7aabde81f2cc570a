"""This daemon's part in a model's training: what `protocols/learn` decides, done."""
