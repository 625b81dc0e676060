"""The cross-validation of the kernels: cases, error bounds, report."""
