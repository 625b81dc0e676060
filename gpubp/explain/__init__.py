"""`gpubp explain`: one step of backpropagation, and a kernel's threads at work, shown with their own numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubp.lazy import names_from

if TYPE_CHECKING:
    from gpubp.explain.network_step import one_step as one_step
    from gpubp.explain.own_kernel import kernel as kernel

__all__ = ["kernel", "one_step"]

__getattr__, __dir__ = names_from(__name__, {"kernel": "own_kernel", "one_step": "network_step"})
