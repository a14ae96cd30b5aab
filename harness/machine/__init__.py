"""A PC's CPU and RAM. The only room that knows Unicorn, SVM and every quirk of both."""

from harness.machine.machine import EngineError, Machine, RunEnd

__all__ = ["EngineError", "Machine", "RunEnd"]
