"""Source lines in what Numba compiles: the right line, in the file that it belongs to.

Numba is not imported here: its classes are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numba.cuda.debuginfo import DIBuilder
    from numba.cuda.lowering import Lower


def line_of(lower: Lower, line: int) -> int:
    """Return the line of the next statement, and note its file for `location_of`.

    A kernel's decorators stand for its prologue, which Numba puts on the line of its "def". Numba takes every line
    above for one of them, also those of functions that it inlines.
    """
    own, here = lower.func_ir.loc, lower.loc
    lower.debuginfo.file_of_statement = here.filename
    in_prologue = here.filename == own.filename and own.line <= line < lower.defn_loc.line
    return lower.defn_loc.line if in_prologue else line


def location_of(builder: DIBuilder, line: int) -> Any:
    """Return a line in the file that it belongs to: Numba puts the lines of inlined code into the caller's file.

    Each is kept, because to add one again, as for every statement, llvmlite spells it out to find it among the others.
    """
    scope = builder.subprograms[-1]
    file_name = getattr(builder, "file_of_statement", builder.filepath)
    known = vars(builder).setdefault("known_locations", {})
    key = scope.name, file_name, line
    if key not in known:
        add, path = builder.module.add_debug_info, Path(file_name)
        if path != Path(builder.filepath):
            file = add("DIFile", {"directory": str(path.parent), "filename": path.name})
            scope = add("DILexicalBlockFile", {"scope": scope, "file": file, "discriminator": 0})
        known[key] = add("DILocation", {"line": line, "column": 1, "scope": scope})
    return known[key]
