"""What a kernel does on the machine, with no GPU: `gpubp profile`.

Three sources, each a module: `machine_code` reads what the compiler made (the instructions of the main loop, beside
registers and spills), `counts` runs the primitive on the emulated device and counts (instructions, bytes, sectors, bank
conflicts), and `occupancy` works out what a chip's multiprocessors hold. `profile` puts them together, on the roofline
of `gpubp.costs`.
"""
