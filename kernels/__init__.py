"""The kernels, and what they include."""
