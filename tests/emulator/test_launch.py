"""What a driver checks at a launch, and what a loaded module offers."""

import numpy as np
import pytest

from gpubp.emulator import launch
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.errors import EmulatorError, LaunchError, PTXSyntaxError

KERNEL = """.version 8.5
.target sm_90
.address_size 64
.global .align 4 .b8 table[16] = {1, 2, 3, 4};
.extern .shared .align 16 .b8 dynamic[];
.visible .entry test(.param .u32 n, .param .align 8 .b8 s[16]) .maxntid 512, 1, 1
{ .reg .b32 %r<3>; .shared .align 16 .b8 fixed[1024]; mov.u32 %r1, fixed; mov.u32 %r2, dynamic; ret; }
.visible .entry small(.param .f32 x) .reqntid 64, 1, 1 { ret; }
"""
PARAMETERS = [bytes(4), bytes(16)]


@pytest.fixture(scope="module")
def module():
    return launch.load(KERNEL)


def go(module, name="test", grid=(1, 1, 1), block=(32, 1, 1), params=PARAMETERS, shared=0, arch="sm_90"):
    launch.launch(module.kernel(name), grid, block, params, shared, arch)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"grid": (0, 1, 1)}, r"grid.x is 0; it must be 1 to 2,147,483,647"),
        ({"grid": (1, 65536, 1)}, r"grid.y is 65536; it must be 1 to 65,535"),
        ({"grid": (1, 1)}, "three sides"),
        ({"block": (32, 64, 1)}, r"block \(32, 64, 1\) has 2,048 threads; a block has at most 1,024"),
        ({"block": (1, 1, 65)}, "block.z is 65; it must be 1 to 64"),
        ({"block": (-1, 1, 1)}, "block.x is -1"),
        ({"block": (1024, 1, 1)}, "compiled for at most 512"),
        ({"name": "small", "params": [bytes(4)]}, r"block is \(32, 1, 1\); the kernel requires \(64, 1, 1\)"),
        ({"params": [bytes(4)]}, "1 arguments given; it takes 2"),
        ({"params": [bytes(8), bytes(16)]}, "argument 0 has 8 bytes; its type u32 has 4"),
        ({"params": [bytes(4), bytes(12)]}, r"argument 1 has 12 bytes; its type b8\[16\] has 16"),
        ({"shared": -1}, "shared_bytes is -1"),
        ({"shared": 227 * 1024}, r"233,472 bytes of shared memory \(1,024 static\); .* at most 232,448"),
        ({"shared": 64 * 1024, "arch": "sm_75"}, "a block on sm_75 has at most 65,536"),
        ({"shared": 99 * 1024, "arch": "sm_86"}, "a block on sm_86 has at most 101,376"),
        ({"arch": "sm_1"}, "arch is 'sm_1'; it must be one of"),
    ],
)  # fmt: skip
def test_launches_that_no_gpu_accepts(module, arguments, what):
    with pytest.raises(LaunchError, match=what):
        go(module, **arguments)


@pytest.mark.parametrize("arguments", [{"shared": 226 * 1024}, {"block": (8, 8, 8)}, {"arch": "sm_100a"}])
def test_launches_at_the_limits_run(module, arguments):
    go(module, **arguments)


def test_a_kernel_tells_its_parameters_and_memory(module):
    kernel = module.kernel("test")
    assert [(p.name, p.type, p.size, p.align) for p in kernel.parameters] == [
        ("n", "u32", 4, 4),
        ("s", "b8[16]", 16, 8),
    ]
    assert (kernel.static_shared_bytes, kernel.max_threads, kernel.local_bytes) == (1024, 512, 0)


def test_variables_have_an_address_and_a_size(module):
    address = module.global_address("table")
    np.testing.assert_array_equal(MEMORY.view(address, module.global_size("table"))[:5], [1, 2, 3, 4, 0])


def test_unknown_names_list_the_known_ones(module):
    with pytest.raises(EmulatorError, match=r"no kernel 'nothing'.* it has test, small"):
        module.kernel("nothing")
    with pytest.raises(EmulatorError, match=r"no variable 'nothing'.* it has table"):
        module.global_address("nothing")


def test_directives_that_change_a_launch_are_not_ignored():
    with pytest.raises(PTXSyntaxError, match=r"unsupported directive \.blocksareclusters"):
        launch.load(KERNEL.replace(".reqntid", ".blocksareclusters .reqntid"))


def test_launches_from_several_threads_take_turns(ptx_text):
    from concurrent.futures import ThreadPoolExecutor

    kernel = launch.load(ptx_text("atom.global.add.u32 %r1, [%rd1], 1;", 1)).kernel("test")
    addresses = [MEMORY.allocate(4) for _ in range(4)]

    def count(address: int) -> int:
        MEMORY.view(address, 4)[:] = 0
        for _ in range(20):
            launch.launch(kernel, (1, 1, 1), (32, 1, 1), [address.to_bytes(8, "little")])
        return int(MEMORY.view(address, 4).view(np.uint32)[0])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(count, addresses)) == [640] * 4


def test_too_much_static_shared_memory():
    text = KERNEL.replace("fixed[1024]", "fixed[49156]")
    with pytest.raises(LaunchError, match="49,156 bytes of static shared memory; at most 49,152"):
        go(launch.load(text))
