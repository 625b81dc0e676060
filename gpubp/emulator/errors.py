"""What the emulated device reports: every error names the kernel and, where known, source line, block and thread."""

from __future__ import annotations


class EmulatorError(RuntimeError):
    """Any fault found by the emulated device; the kinds below say which."""


class PTXSyntaxError(EmulatorError):
    """PTX text that the parser does not understand; the message has the line of the PTX."""


class UnsupportedInstruction(EmulatorError):
    """A PTX instruction, modifier or feature outside what the emulated device executes."""


class LaunchError(EmulatorError):
    """A launch that no GPU would accept: grid, block, shared memory, or arguments that do not fit the kernel."""


class MemoryAccessError(EmulatorError):
    """An access out of bounds, misaligned, or to memory that was freed; a free of what is no block of malloc."""


class CallError(EmulatorError):
    """A call through an address that is no such function, or one for which the stack has no room."""


class DeadlockError(EmulatorError):
    """Threads that wait at a barrier which the others never reach."""


class BarrierError(EmulatorError):
    """An mbarrier that is used against its rules: before its init, overwritten, or with a count out of range."""


class HangError(EmulatorError):
    """Threads that never end: they go round in a loop until something happens that nobody will do."""


class DivergenceError(EmulatorError):
    """A warp-wide instruction whose named threads do not execute it together."""


class RegisterError(EmulatorError):
    """Registers that are handed on against the rules: `setmaxnreg.inc` to fewer than a warp has, or `.dec` to more."""


class TrapError(EmulatorError):
    """The kernel stopped itself: a failed assert or a trap instruction."""
