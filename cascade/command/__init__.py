"""The command `cascade`: everything between its arguments and what it prints."""
