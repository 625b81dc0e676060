"""Fully connected networks trained by backpropagation, every step of the algorithm its own GPU kernel."""
