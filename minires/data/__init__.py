"""Images and labels, from anywhere."""
