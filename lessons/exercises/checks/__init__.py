"""What each exercise checks, and its hints; by the names of the student's files."""
