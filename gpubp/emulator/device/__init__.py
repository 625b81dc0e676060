"""The emulated chip: memories, lanes, warps, barriers, and the scheduler of a wave."""
