"""The report of ptxas, read."""

from gpubp.toolchain.ptxas import resources_from_log


def test_report_without_shared_memory_reads_as_zero():
    log = """ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas         .     16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 51 registers, used 1 barriers, 400 bytes cmem[0], 24 bytes cmem[2]"""
    used = resources_from_log(log)["k"]
    assert (used.registers, used.shared_bytes, used.local_bytes) == (51, 0, 16)
    assert (used.spill_store_bytes, used.spill_load_bytes, used.constant_bytes) == (4, 8, 24)
