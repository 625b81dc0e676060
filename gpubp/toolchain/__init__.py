"""NVIDIA's compilers, called so that the same source always gives the same code, and the cache of what they made."""
