"""How a run goes: calls, the ready queue, the processor, resources held, and the graph strategy."""
