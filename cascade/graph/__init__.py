"""What an expression is read into: its structure, its plan, and the graph shown to users."""
