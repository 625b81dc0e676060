"""The table of chips: whole, consistent with itself, and a user's file checked field by field."""

import os
from dataclasses import replace

import pytest

from gpubp import chips
from gpubp.errors import ArgumentError

CORES = {"sm_75": 64, "sm_80": 64, "sm_89": 128, "sm_90": 128, "sm_100": 128}
"""float32 lanes of a multiprocessor: CUDA C++ Programming Guide, arithmetic instructions throughput."""


def test_the_table_has_the_chips_that_the_readme_names():
    assert list(chips.known()) == ["A100", "H100", "B200", "RTX4090", "T4"]


@pytest.mark.parametrize("gpu", chips.known().values(), ids=lambda gpu: gpu.key)
def test_peak_rates_follow_from_cores_and_clock(gpu):
    peak = 2 * CORES[gpu.arch] * gpu.multiprocessors * gpu.boost_hz
    assert gpu.rates["float32"] == pytest.approx(peak, rel=0.02)
    if "float16" in gpu.rates:
        assert gpu.rates["float16"] == gpu.rates.get("bfloat16", gpu.rates["float16"])
    units = chips.architectures()[gpu.arch]
    assert (chips.FLOAT64_TENSOR in gpu.rates) == gpu.for_plans().has_float64_tensor_cores == (units.float64_tensor > 0)
    if chips.FLOAT64_TENSOR in gpu.rates:
        ratio = units.float64_tensor / units.float64
        assert gpu.rates[chips.FLOAT64_TENSOR] == pytest.approx(ratio * gpu.rates["float64"], rel=0.01)
        assert gpu.product_rate("float64") == chips.FLOAT64_TENSOR
    assert gpu.product_rate("float32") == "float32"
    if "tf32" in gpu.rates:
        assert gpu.rates["float16"] == pytest.approx(2 * gpu.rates["tf32"], rel=0.01)


@pytest.mark.parametrize("gpu", chips.known().values(), ids=lambda gpu: gpu.key)
def test_every_chip_is_whole(gpu):
    assert gpu.source
    assert gpu.devices
    assert gpu.multiprocessor == chips.architectures()[gpu.arch].multiprocessor


@pytest.mark.parametrize("arch", chips.architectures().values(), ids=lambda arch: arch.name)
def test_every_architecture_is_whole(arch):
    limits = arch.multiprocessor
    assert limits.shared_per_block + limits.shared_reserve == limits.shared_bytes
    assert limits.shared_bytes % limits.shared_unit == 0
    assert limits.threads % chips.WARP == 0
    assert arch.example
    assert arch.multiprocessors > 0


def test_names_are_found_whatever_their_case():
    assert chips.get("h100") is chips.get("H100 SXM") is chips.get("H100")
    with pytest.raises(ArgumentError, match=r"chip was 'V100'; it must be one of A100, H100, B200, RTX4090, T4"):
        chips.get("V100")


def test_a_device_is_known_by_its_whole_name_only():
    assert chips.of_device("NVIDIA H100 80GB HBM3").key == "H100"
    assert chips.of_device("NVIDIA H100 PCIe") is None


def test_what_plans_need():
    assert chips.get("H100").for_plans() == chips.Chip("sm_90", 132, shared_on_request=227 * 1024)


def test_a_rate_that_a_chip_lacks_is_an_error():
    assert chips.get("A100").roofline("tf32").ridge == pytest.approx(156e12 / 2039e9)
    with pytest.raises(ArgumentError, match="chip was 'T4'; it must be a chip with bfloat16 units"):
        chips.get("T4").roofline("bfloat16")


@pytest.mark.parametrize("gpu", chips.known().values(), ids=lambda gpu: gpu.key)
def test_what_mma_sync_reaches(gpu):
    """All of the dense rates where it is the only tensor instruction: wgmma needs sm_90a, and tcgen05 sm_100a."""
    if chips.number_of(gpu.arch) < 90:
        assert gpu.mma_sync == 1
    elif gpu.mma_sync is not None:
        assert 0.5 < gpu.mma_sync < 1
    assert bool(gpu.mma_source) == (gpu.mma_sync is not None)


def test_the_ceiling_is_that_of_the_instructions_at_hand():
    h100 = chips.get("H100")
    assert h100.ceiling("bfloat16").peak == 0.65 * h100.roofline("bfloat16").peak
    assert h100.ceiling("bfloat16").bandwidth == h100.bandwidth
    assert h100.ceiling("float32") == h100.roofline("float32")
    assert chips.get("A100").ceiling("tf32") == chips.get("A100").roofline("tf32")
    assert chips.get("B200").ceiling("tf32") == chips.get("B200").roofline("tf32")  # no measurement is known
    with pytest.raises(ArgumentError, match="chip was 'T4'; it must be a chip with bfloat16 units"):
        chips.get("T4").ceiling("bfloat16")


@pytest.mark.parametrize("link", chips.links().values(), ids=lambda link: link.name)
def test_every_link_is_whole(link):
    assert link.source
    assert 1e10 < link.bandwidth < 1e12
    assert 1e-6 < link.latency < 1e-4
    assert link.chips is None or link.chips > 1


@pytest.mark.parametrize(("key", "transfers"), [("PCIe3", 8e9), ("PCIe4", 16e9), ("PCIe5", 32e9)])
def test_pci_express_sends_128_bits_of_130_on_16_lanes(key, transfers):
    assert chips.links()[key].bandwidth == pytest.approx(16 * transfers * 128 / 130 / 8, rel=1e-3)


def test_400_gigabit_are_bits():
    assert chips.links()["NDR"].bandwidth == 400e9 / 8


def test_an_unknown_link_is_told(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(table_of("T4", links='["NVLnk4"]'))
    with pytest.raises(ArgumentError, match=r"mine.toml: T4.links was 'NVLnk4'; .*did you mean 'NVLink4'"):
        chips.read(file)
    file.write_text(table_of("T4", links='"PCIe3"'))
    with pytest.raises(ArgumentError, match=r"T4.links was 'PCIe3'; it must be a list of texts"):
        chips.read(file)


LIMITS = """
[T4.multiprocessor]
threads = 1024
blocks = 16
registers = 65536
register_unit = 256
register_partitions = 4
shared_bytes = 65536
shared_unit = 256
shared_reserve = 0
shared_per_block = 65536
"""


def table_of(key, more="", **changes):
    """The lines of one chip in the table, as a file of its own; a change of None leaves the field out."""
    text = chips.TABLE.read_text()
    start = text.index(f"[{key}]")
    end = text.index("\n#", start)
    lines = (text[start:end] + more).splitlines()
    for name, value in changes.items():
        at, *_ = [i for i, line in enumerate(lines) if line.startswith(f"{name} =")]  # source is in two tables
        lines[at] = "" if value is None else f"{name} = {value}"
    return "\n".join(lines)


def test_a_users_file(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(table_of("T4"))
    assert chips.read(file) == chips.get("T4")


def test_a_users_file_may_have_limits_of_its_own(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(table_of("T4", LIMITS, arch='"sm_70"', threads=2048))
    assert chips.read(file).multiprocessor == replace(chips.get("T4").multiprocessor, threads=2048)
    file.write_text(table_of("T4", arch='"sm_70"'))
    with pytest.raises(ArgumentError, match=r"T4.multiprocessor was None; it must be a table of its own: sm_70 is not"):
        chips.read(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bandwidth": None}, r"mine.toml: T4.bandwidth was None; it must be a number > 0"),
        ({"bandwidth": "-1"}, r"T4.bandwidth was -1; it must be a number > 0"),
        ({"multiprocessors": "40.0"}, r"T4.multiprocessors was 40.0; it must be a whole number > 0"),
        ({"arch": '"7.5"'}, r"T4.arch was '7.5'; it must be a real architecture"),
        ({"float32": '"fast"'}, r"T4.tflops.float32 was 'fast'"),
        ({"float32": "nan"}, r"T4.tflops.float32 was nan"),
        ({"float64": "0.25\nfloat128 = 1"}, r"T4.tflops.float128 was 1; it must be left out; did you mean"),
        ({"shared_unit": None}, r"T4.multiprocessor.shared_unit was None"),
        ({"shared_unit": "0"}, r"T4.multiprocessor.shared_unit was 0"),
        ({"devices": "[1]"}, r"T4.devices was \[1\]; it must be a list of texts"),
        ({"share": "1.01"}, r"T4.mma_sync.share was 1.01; it must be ≤ 1, the dense rate"),
        ({"share": None}, r"T4.mma_sync.share was None; it must be a number > 0"),
    ],
)
def test_a_users_file_is_checked_field_by_field(tmp_path, changes, message):
    file = tmp_path / "mine.toml"
    file.write_text(table_of("T4", LIMITS, **changes))
    with pytest.raises(ArgumentError, match=message):
        chips.read(file)


def test_files_that_are_no_chip(tmp_path):
    with pytest.raises(ArgumentError, match="a file that can be read"):
        chips.read(tmp_path / "none.toml")
    file = tmp_path / "mine.toml"
    file.write_text("[")
    with pytest.raises(ArgumentError, match="a TOML file"):
        chips.read(file)
    file.write_text("name = 'x'")
    with pytest.raises(ArgumentError, match="inside a chip's table"):
        chips.read(file)
    file.write_text("")
    with pytest.raises(ArgumentError, match="one chip's table; it has 0"):
        chips.read(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bandwidth": "1" + "0" * 30}, r"T4.bandwidth was 10{30}; it must be a number > 0"),
        ({"multiprocessors": "1" + "0" * 30}, r"T4.multiprocessors was 10{30}"),
        ({"boost_mhz": "1e300"}, r"T4.boost_mhz was 1e\+300"),
        ({"boost_mhz": "1e-300"}, r"T4.boost_mhz was 1e-300"),
        ({"boost_mhz": "inf"}, r"T4.boost_mhz was inf"),
        ({"boost_mhz": "true"}, r"T4.boost_mhz was True"),
        ({"bandwidth": "9" * 5000}, "a TOML file: .*4300 digits"),
        ({"bandwidth": "[" * 3000}, "a TOML file: it is nested too deeply"),
        ({"name": '"\\u001b[31m"'}, r"T4.name was '\\x1b\[31m'; it must be a text in one line"),
        ({"name": '"two\\nlines"'}, r"T4.name was 'two\\nlines'"),
        ({"name": '""'}, r"T4.name was ''"),
        ({"name": f'"{"x" * 201}"'}, r"T4.name was 'xxx.*\.\.\.; it must be a text in one line, of at most 200"),
        ({"source": '["a"]'}, r"T4.source was \['a'\]"),
        ({"devices": '["\\u0007"]'}, r"T4.devices was \['\\x07'\]"),
        ({"arch": '"sm_٩٠"'}, r"T4.arch was 'sm_٩٠'; it must be a real architecture"),
        ({"arch": f'"sm_{"9" * 150}"'}, r"T4.arch was 'sm_999"),
        ({"threads": "31"}, r"T4.multiprocessor.threads was 31; it must be at least 32"),
        ({"registers": "1e3"}, r"T4.multiprocessor.registers was 1000.0"),
    ],
)
def test_no_figure_of_a_users_file_is_beyond_reckoning(tmp_path, changes, message):
    file = tmp_path / "mine.toml"
    file.write_text(table_of("T4", LIMITS, **changes))
    with pytest.raises(ArgumentError, match=message) as caught:
        chips.read(file)
    assert len(str(caught.value)) < 400


def test_only_a_regular_file_is_a_chip(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    for path in (tmp_path / "fifo.toml", "/dev/zero"):
        with pytest.raises(ArgumentError, match="it is not a regular file"):
            chips.read(path)
    for path in (tmp_path / ("n" * 256), "a\0.toml"):
        with pytest.raises(ArgumentError, match="a file that can be read"):
            chips.read(path)
    file = tmp_path / "mine.toml"
    file.write_text(table_of("T4").replace("[T4", '["\\u001b[31m"'))
    with pytest.raises(ArgumentError, match=r"the name of the table was '.x1b"):
        chips.read(file)
