"""harness: a laboratory for x86 virtualization.

    from harness import Guest, run
    result = run(Guest.load("guests/010-hello.asm"))
    print(result.console, result.verdict)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.guest import Guest
    from harness.hypervisor import Domain, run

__version__ = "0.1.0"
__all__ = ["Domain", "Guest", "run"]

_HOMES = {"Domain": "harness.hypervisor", "run": "harness.hypervisor", "Guest": "harness.guest"}


def __getattr__(name: str) -> Any:
    """Names are imported on first use: `harness --help` needs no engine."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'harness' has no attribute '{name}'")
