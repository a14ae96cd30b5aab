"""A PC's CPU and RAM. The only room that knows Unicorn, SVM and every quirk of both."""

from harness.machine.machine import EngineError, ImageError, Machine, MachineImage, RunEnd

__all__ = ["EngineError", "ImageError", "Machine", "MachineImage", "RunEnd"]
