"""A target, drawn and described."""
