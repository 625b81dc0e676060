"""Whole programs on the virtual device: the program in a process of its own, its children, and one report of all."""
