"""The cross-validation of the kernels: cases, error bounds, report.

`gpubp check` runs it from the command line. `check_product` holds a kernel of your own against the same bounds.
"""

from gpubp.crosscheck.products import ProductError, ProductOutcome, check_product

__all__ = ["ProductError", "ProductOutcome", "check_product"]
