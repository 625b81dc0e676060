"""The device."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver import allocations, devices
from gpubp.emulator.driver.api.values import required, write_text
from gpubp.emulator.driver.calls import (
    ENUM,
    INT,
    POINTER,
    SIZE,
    TEXT,
    export,
    to,
)
from gpubp.emulator.driver.results import DriverError


@export("cuDeviceGet", 2000, to(INT), INT)
def _(device: Any, ordinal: int) -> None:
    device[0] = devices.check_ordinal(ordinal)


@export("cuDeviceGetCount", 2000, to(INT))
def _(count: Any) -> None:
    count[0] = 1


@export("cuDeviceGetName", 2000, POINTER, INT, INT)
def _(name: int, length: int, device: int) -> None:
    devices.check_ordinal(device)
    write_text(devices.name(), name, length)


@export("cuDeviceGetUuid", 9020, POINTER, INT)
@export("cuDeviceGetUuid_v2", 11040, POINTER, INT)
def _(uuid: int, device: int) -> None:
    devices.check_ordinal(device)
    ctypes.memmove(required(uuid, "uuid"), devices.UUID, 16)


@export("cuDeviceTotalMem_v2", 3020, to(SIZE), INT)
def _(nbytes: Any, device: int) -> None:
    devices.check_ordinal(device)
    nbytes[0] = allocations.free_and_total()[1]


@export("cuDeviceGetAttribute", 2000, to(INT), ENUM, INT)
def _(value: Any, attribute: int, device: int) -> None:
    devices.check_ordinal(device)
    value[0] = devices.attribute(attribute)


@export("cuDeviceComputeCapability", 2000, to(INT), to(INT), INT)
def _(major: Any, minor: Any, device: int) -> None:
    devices.check_ordinal(device)
    major[0], minor[0] = devices.capability()


@export("cuDeviceGetPCIBusId", 4010, POINTER, INT, INT)
def _(text: int, length: int, device: int) -> None:
    devices.check_ordinal(device)
    write_text(devices.PCI_BUS_ID, text, length)


@export("cuDeviceGetByPCIBusId", 4010, to(INT), TEXT)
def _(device: Any, text: bytes) -> None:
    if text.decode() != devices.PCI_BUS_ID:
        raise DriverError("CUDA_ERROR_INVALID_DEVICE", f"pciBusId is {text.decode()!r}: it is {devices.PCI_BUS_ID!r}")
    device[0] = 0


@export("cuDeviceCanAccessPeer", 4000, to(INT), INT, INT)
def _(can: Any, device: int, peer: int) -> None:
    devices.check_ordinal(device)
    devices.check_ordinal(peer)
    can[0] = 0
