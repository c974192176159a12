"""For tests and experiments: a service of one's own, and the contracts of policies and stores as tests for their
authors.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from bss_service.testing.service import ServiceProcess, ServiceStartError

__all__ = ["PolicyContract", "ServiceProcess", "ServiceStartError", "StoreContract"]

_HOMES: Final = {"PolicyContract": "bss_service.testing.policies", "StoreContract": "bss_service.testing.stores"}

if pytest := sys.modules.get("pytest"):  # failed assertions of the contracts then show values
    pytest.register_assert_rewrite(*_HOMES.values())

if TYPE_CHECKING:
    from bss_service.testing.policies import PolicyContract
    from bss_service.testing.stores import StoreContract
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)  # only now that pytest rewrites its assertions
