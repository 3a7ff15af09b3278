"""Who may start, and when: constraints, rates, and the gate."""
