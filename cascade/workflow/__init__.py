"""What a user writes. Nothing in here runs anything."""
