"""Kernels in PTX, as Numba's compilers give them: a plain name, linked code, dynamic shared memory."""

from gpubp.emulator.numba.ptx import entry_named, linked, with_dynamic_shared

HEADER = ".version 9.0\n.target sm_90\n.address_size 64\n"
KERNEL = (
    HEADER
    + """
.extern .func (.param .b32 r) twice (.param .b32 x);
.visible .entry _Z4fillx(
	.param .u64 _Z4fillx_param_0
)
{
	// __dynamic_shmem__0 has been demoted
	.shared .align 16 .b8 __dynamic_shmem__0;
	ld.param.u64 	%rd1, [_Z4fillx_param_0];
	mov.u64 	%rd2, __dynamic_shmem__0;
	ret;
}
"""
)


def test_the_entry_gets_its_plain_name():
    ptx = entry_named("fill.<locals>", KERNEL)
    assert "_Z4fillx" not in ptx
    assert ".entry fill__locals_(" in ptx
    assert "[fill__locals__param_0]" in ptx


def test_linked_functions_stand_for_their_declarations():
    function = "\n.visible .func (.param .b32 r) twice (.param .b32 x)\n{\n\tret;\n}\n"
    ptx = linked(KERNEL, [HEADER + function])
    assert ".extern .func" not in ptx
    assert ptx.index(".visible .func") < ptx.index(".entry")


def test_dynamic_shared_memory_is_declared_outside_of_the_kernel():
    ptx = with_dynamic_shared(KERNEL)
    assert ptx.startswith(HEADER + ".extern .shared .align 16 .b8 __dynamic_shmem__0[];\n")
    assert ptx.count(".shared .align") == 1
    assert with_dynamic_shared(ptx) == ptx
