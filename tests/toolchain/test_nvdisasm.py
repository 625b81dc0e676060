"""The disassembler: what is said where it is missing, or cannot read what it is given."""

import pytest

from gpubp.errors import BackendError
from gpubp.toolchain import nvdisasm


def test_a_missing_disassembler_is_said(monkeypatch):
    monkeypatch.setattr(nvdisasm, "find", lambda: None)
    with pytest.raises(BackendError, match="nvdisasm is missing: pip install nvidia-cuda-nvdisasm"):
        nvdisasm.disassemble(b"not yet read")


def test_what_is_no_machine_code_is_said():
    with pytest.raises(BackendError, match="nvdisasm cannot read"):
        nvdisasm.disassemble(b"no cubin")
