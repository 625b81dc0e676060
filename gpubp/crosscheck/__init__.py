"""The cross-validation of the kernels: cases, error bounds, report.

`gpubp check` runs it from the command line. `check` holds a kernel of your own, of any signature, against a NumPy
function; `check_product` a matrix product against the error bound of any correct one.
"""

from gpubp.crosscheck.kernels import In, InOut, KernelError, KernelOutcome, Out, check
from gpubp.crosscheck.products import ProductError, ProductOutcome, check_product

__all__ = [
    "In",
    "InOut",
    "KernelError",
    "KernelOutcome",
    "Out",
    "ProductError",
    "ProductOutcome",
    "check",
    "check_product",
]
