"""What a run does right now, sampled and shown in the terminal."""
