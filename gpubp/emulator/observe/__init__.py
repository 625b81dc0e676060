"""What is watched while kernels run: races, unwritten memory, traffic, instruction counts."""
