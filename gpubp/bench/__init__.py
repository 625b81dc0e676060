"""How fast: this project's backends against each other, against other libraries, and against the hardware's limit.

`works` says what is measured, `contenders` who measures it, each in a process of its own (`worker`); `turns` lets them
take turns, so that what slows the machine for a while slows them all; `results` keeps the figures, `tables` shows them.
Every result is checked after its timing: a wrong one gets no time. Device time is the device's own, by events; the
emulated device has no such clock, and never takes part.

`measure` times a function of your own in the same way, in this process.
"""

from gpubp.lazy import names_from

__getattr__, __dir__ = names_from(
    __name__, {"Measurement": "callables", "measure": "callables", "measure_in_turns": "callables"}
)
