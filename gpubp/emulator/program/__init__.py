"""PTX text to programs: the parser, the control-flow graph, the allocation of registers."""
