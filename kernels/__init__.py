"""The kernels, and the plans that choose among them."""
