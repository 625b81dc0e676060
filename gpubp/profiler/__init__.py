"""What a kernel does on the machine, with no GPU: `gpubp profile`, and `profile` for a kernel of your own.

Three sources, each a module: `machine_code` reads what the compiler made (the instructions of the main loop, beside
registers and spills), `counts` runs the primitive on the emulated device and counts (instructions, bytes, sectors, bank
conflicts), and `occupancy` works out what a chip's multiprocessors hold. `profiles` puts them together, on the roofline
of `gpubp.costs`.
"""

from gpubp.lazy import names_from

__getattr__, __dir__ = names_from(__name__, {"profile": "kernels"})
