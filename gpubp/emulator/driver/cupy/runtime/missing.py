"""What the virtual device does not have."""

from __future__ import annotations

from gpubp.emulator.driver.cupy.runtime.serving import refuse

refuse("pictures of graphs", "graphDebugDotPrint")
refuse(
    "CUDA arrays",
    "malloc3DArray",
    "mallocArray",
    "freeArray",
    "memcpy2DFromArray",
    "memcpy2DFromArrayAsync",
    "memcpy2DToArray",
    "memcpy2DToArrayAsync",
    "memcpy3D",
    "memcpy3DAsync",
    "getChannelDesc",
)
refuse(
    "textures and surfaces",
    "createTextureObject",
    "destroyTextureObject",
    "getTextureObjectResourceDesc",
    "getTextureObjectTextureDesc",
    "createSurfaceObject",
    "destroySurfaceObject",
)
refuse(
    "memory shared between processes",
    "ipcCloseMemHandle",
    "ipcGetEventHandle",
    "ipcGetMemHandle",
    "ipcOpenEventHandle",
    "ipcOpenMemHandle",
    python_only=True,
)
refuse("second device", "deviceDisablePeerAccess", python_only=True)
