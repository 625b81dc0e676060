"""The constants of Philox4×32-10, for the host and for the kernels in Python; cuda/philox.cuh has them in C++.

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 3.3.
"""

from __future__ import annotations

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""What words 0 and 2 of the counter are multiplied by."""
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
"""What is added to the key's words after each round: the golden ratio, and √3 − 1."""
WORD = 2**32 - 1
"""The largest word."""
