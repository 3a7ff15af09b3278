"""Who carries out a call: the event loop, threads, and worker processes."""
