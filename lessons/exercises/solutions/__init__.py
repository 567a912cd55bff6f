"""Reference solutions. Try before you look: an exercise that was read is an exercise lost."""
