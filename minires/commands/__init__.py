"""The commands, a file for each kind; `register` in each adds them to the command line."""
