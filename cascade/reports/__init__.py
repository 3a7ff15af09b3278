"""What a run did, made from its events."""
