"""malloc, free, new and delete in kernels, and what can go wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from planted import changed, line_of

import gpubp.emulator as cp
from gpubp.emulator import EmulatorError, MemoryAccessError, UnsupportedInstruction, limits, observe
from gpubp.emulator.device.heap import HEAP, Heap
from gpubp.emulator.device.memory import ARENA_BASE
from gpubp.emulator.observe import observers, shadow

SOURCE = (Path(__file__).parents[1] / "kernels" / "heap.cu").read_text()


@pytest.fixture(scope="module")
def kernels() -> cp.RawModule:
    return cp.RawModule(code=SOURCE)


@pytest.fixture
def launch(kernels):
    """Launch a kernel by name; afterwards nothing of the heap is in use."""
    before = HEAP.used

    def run(name, blocks, threads, *arguments):
        kernels.get_function(name)((blocks,), (threads,), arguments)

    yield run
    assert HEAP.used == before


# --- right programs


@pytest.mark.usefixtures("watched")
class TestRight:
    def test_lists_of_each_thread(self, launch):
        sums = cp.empty(80, np.int32)
        launch("lists", 2, 40, sums, np.int32(5))
        assert np.array_equal(sums.get(), np.tile(5 * np.arange(40) + 10, 2))

    def test_a_list_of_all_threads_lives_across_launches(self, launch):
        launch("push", 3, 32, np.int32(50))
        launch("push", 1, 32, np.int32(20))
        values = cp.empty(70, np.int32)
        launch("pop_all", 1, 1, values)
        assert np.array_equal(np.sort(values.get()), np.sort([*range(50), *range(20)]))

    def test_a_block_that_threads_share(self, launch):
        out = cp.empty(128, np.int32)
        launch("shared_block", 2, 64, out, np.int32(100))
        assert np.array_equal(out.get(), np.tile((99 - np.arange(64)) ** 2, 2))

    def test_objects_known_by_their_base(self, launch):
        out = cp.empty(32, np.int32)
        launch("legs", 1, 32, out)
        assert out.get().tolist() == [8, 4, 8, *[10] * 29]

    def test_blocks_of_a_type_with_an_alignment(self, launch):
        where = cp.empty(32, np.uint64)
        launch("lines", 1, 32, where)
        assert not (where.get() % np.uint64(64)).any()
        assert np.unique(where.get()).size == 32


# --- the heap's limit


def test_malloc_gives_null_when_the_heap_is_full_and_room_comes_back(launch):
    where = cp.empty(40, np.uint64)
    used = HEAP.used
    with limits(heap=used + 10 * 1024):
        launch("keep", 2, 20, where, np.uint64(1000))
        got = where.get()
        assert np.count_nonzero(got) == 10
        assert (got[:10] > 0).all()
        launch("give_back", 2, 20, where)  # null pointers too, of which nothing comes
        launch("keep", 1, 20, where[:20], np.uint64(500))
        assert np.count_nonzero(where[:20].get()) == 20
        launch("give_back", 1, 20, where[:20])


def test_the_heap_has_8_mib_by_default(launch):
    where = cp.empty(9, np.uint64)
    launch("keep", 1, 9, where, np.uint64(1 << 20))
    assert np.count_nonzero(where.get()) == 8
    launch("give_back", 1, 9, where)
    launch("keep", 1, 1, where[:1], np.uint64(1 << 63))
    assert where.get()[0] == 0


def test_a_null_pointer_that_is_used_is_named():
    module, source = changed(SOURCE, "sizeof(Item)));", "sizeof(Item) << 40));")
    with pytest.raises(MemoryAccessError, match="a null pointer") as error:
        module.get_function("lists")((1,), (32,), (cp.empty(32, np.int32), np.int32(5)))
    assert f"kernel.cu:{line_of('item->value = threadIdx.x + i', source)}, block (0, 0, 0), thread (0, 0, 0)" in str(
        error.value
    )


# --- mistakes with blocks


@pytest.mark.parametrize(
    ("old", "new", "kernel", "says", "at"),
    [
        ("static_cast<Item*>(malloc(sizeof(Item)))", "static_cast<Item*>(malloc(8))", "lists",
         "writes 8 bytes .* 0 bytes past the end of a block of malloc or new (kernel.cu:{malloc(8)}) of 8 bytes",
         "item->next = first;"),
        ("block[i] = i * i", "block[i + 1] = i * i", "shared_block",
         "0 bytes past the end of a block of malloc or new (kernel.cu:{if (threadIdx.x == 0) block =}) of 400 bytes",
         "block[i + 1] = i * i"),
    ],
)  # fmt: skip
def test_an_access_out_of_a_block(old, new, kernel, says, at):
    module, source = changed(SOURCE, old, new)
    with pytest.raises(MemoryAccessError) as error:
        module.get_function(kernel)((1,), (64,), (cp.empty(64, np.int32), np.int32(100)))
    check_message(str(error.value), says, at, source)


def check_message(message: str, says: str, at: str, source: str) -> None:
    """Each part of `says`, in which {text} stands for the line that has the text, is in a message at a line."""
    assert f", kernel.cu:{line_of(at, source)}, block" in message
    for part in says.split(" .* "):
        while "{" in part:
            text = part[part.index("{") + 1 : part.index("}")]
            part = part.replace("{" + text + "}", str(line_of(text, source)))
        assert part in message


@pytest.mark.parametrize(
    ("old", "new", "kernel", "says", "at"),
    [
        # the next item is read from the one that is gone
        ("        Item* next = first->next;\n        sum += first->value;\n        free(first);\n        first = next;",
         "        sum += first->value;\n        free(first);\n        first = first->next;", "lists",
         "reads 8 bytes .* inside a block of malloc or new .* which was freed at kernel.cu:{free(first)}",
         "first = first->next"),
        ("    if (threadIdx.x == 0) free(block);", "    if (threadIdx.x == 0) { free(block);\n  block[5] = 1; }",
         "shared_block", "writes 4 bytes .* which was freed at kernel.cu:{free(block)}", "block[5] = 1"),
    ],
)  # fmt: skip
def test_an_access_to_a_block_that_was_freed(old, new, kernel, says, at):
    module, source = changed(SOURCE, old, new)
    with pytest.raises(MemoryAccessError) as error:
        module.get_function(kernel)((1,), (64,), (cp.empty(64, np.int32), np.int32(100)))
    check_message(str(error.value), says, at, source)


@pytest.mark.parametrize(
    ("old", "new", "kernel", "says", "at"),
    [
        ("        free(first);", "        free(first);\n        if (next == nullptr) free(first); // twice", "lists",
         "double free .* of 16 bytes .* which was freed at kernel.cu", "// twice"),
        ("    if (threadIdx.x == 0) free(block);", "    free(block);  // by all", "shared_block",
         "thread (1, 0, 0): double free .* of 400 bytes .* which was freed at kernel.cu:{// by all}", "// by all"),
        ("        free(first);", "        free(&first->next);", "lists",
         "invalid free .* is 8 bytes into a block of malloc or new", "free(&first->next)"),
        ("    if (threadIdx.x == 0) free(block);", "    if (threadIdx.x == 0) free(out);", "shared_block",
         "invalid free .* is 0 bytes into int32 array of shape (64,)", "free(out)"),
    ],
)  # fmt: skip
def test_a_free_of_what_is_no_block(old, new, kernel, says, at):
    module, source = changed(SOURCE, old, new)
    with pytest.raises(MemoryAccessError) as error:
        module.get_function(kernel)((1,), (64,), (cp.empty(64, np.int32), np.int32(100)))
    check_message(str(error.value), says, at, source)


def test_a_block_freed_in_an_earlier_launch(launch, kernels):
    where = cp.empty(4, np.uint64)
    launch("keep", 1, 4, where, np.uint64(4))
    launch("fill", 1, 4, where, np.int32(7))
    launch("give_back", 1, 4, where)
    with pytest.raises(
        MemoryAccessError, match=f"which was freed at kernel.cu:{line_of('free(reinterpret_cast', SOURCE)}"
    ):
        launch("fill", 1, 4, where, np.int32(7))
    with pytest.raises(MemoryAccessError, match=r"kernel give_back.*thread \(0, 0, 0\): double free"):
        launch("give_back", 1, 4, where)


# --- observers


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        item->value = threadIdx.x + i;\n", ""),
        ("        item->value = threadIdx.x + i;\n", "        if (i != 2) item->value = threadIdx.x + i;\n"),
    ],
)
def test_a_read_of_a_block_that_nothing_has_written(old, new):
    module, source = changed(SOURCE, old, new)
    with observe(uninitialised=True) as report:
        module.get_function("lists")((1,), (64,), (cp.empty(64, np.int32), np.int32(4)))
    assert {finding.kind for finding in report.findings} == {"uninitialised read"}
    assert {finding.location.line for finding in report.findings} == {line_of("sum += first->value", source)}


@pytest.mark.parametrize(
    ("old", "new", "says", "at"),
    [
        ("block[i] = i * i;\n    __syncthreads();", "block[i] = i * i;", "reads global memory that .* writes",
         "block[n - 1 - threadIdx.x]"),
        ("    __syncthreads();\n    if (threadIdx.x == 0) free(block);", "    if (threadIdx.x == 0) free(block);",
         "frees global memory that .* reads at kernel.cu:{block[n - 1 - threadIdx.x]}", "free(block)"),
    ],
)  # fmt: skip
def test_a_race_for_a_block_and_for_its_end(old, new, says, at):
    module, source = changed(SOURCE, old, new)
    with observe(races=True) as report:
        module.get_function("shared_block")((1,), (64,), (cp.empty(64, np.int32), np.int32(100)))
    (finding,) = report.findings
    assert finding.kind == "race"
    assert finding.location.line == line_of(at, source)
    check_message(finding.message, says, at, source)


def test_a_new_block_has_no_history_where_another_lay_before():
    with observe(races=True):
        observer = observers.current()
        observer._global_cells = np.ones((64, shadow.CELL), np.int32)
        observer._global_bits = 2
        observer.block_allocated(ARENA_BASE + 64, 16)
        observer.block_allocated(ARENA_BASE + 512, 16)
        untouched = observer._global_cells[:, 0].nonzero()[0]
    assert untouched.tolist() == [*range(16), *range(21, 64)]


def test_a_heap_refuses_alignments_that_no_block_has():
    heap = Heap()
    for align in (3, 512):
        with pytest.raises(ValueError, match=f"an alignment of {align} bytes"):
            heap.allocate(16, align, "kernel.cu:1")
    assert heap.used == 0


def test_an_alignment_that_is_not_supported_is_named():
    code = """struct alignas(1024) Page { char v[1024]; };
extern "C" __global__ void pages(void** out) { out[0] = new Page; }"""
    with pytest.raises(UnsupportedInstruction, match=r"kernel.cu:2.*an alignment of 1024 bytes"):
        cp.RawKernel(code, "pages")((1,), (1,), (cp.empty(1, np.uint64),))


def test_limits_are_set_as_cupy_sets_them(launch):
    runtime = cp.cuda.runtime
    assert runtime.deviceGetLimit(runtime.cudaLimitMallocHeapSize) == 8 << 20
    assert runtime.deviceGetLimit(runtime.cudaLimitStackSize) == 1024
    where = cp.empty(9, np.uint64)
    with limits():
        runtime.deviceSetLimit(runtime.cudaLimitMallocHeapSize, 16 << 20)
        runtime.deviceSetLimit(runtime.cudaLimitStackSize, 2048)
        assert runtime.deviceGetLimit(runtime.cudaLimitStackSize) == 2048
        launch("keep", 1, 9, where, np.uint64(1 << 20))
        assert where.get().all()
        launch("give_back", 1, 9, where)
    assert runtime.deviceGetLimit(runtime.cudaLimitMallocHeapSize) == 8 << 20
    with pytest.raises(EmulatorError, match="limit is 1: "):
        runtime.deviceSetLimit(1, 1 << 20)
