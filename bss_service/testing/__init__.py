"""For tests and experiments: a service of one's own, and the contract of policies as tests for their authors."""

import sys
from typing import TYPE_CHECKING, Any

from bss_service.testing.service import ServiceProcess, ServiceStartError

__all__ = ["PolicyContract", "ServiceProcess", "ServiceStartError"]

if pytest := sys.modules.get("pytest"):  # failed assertions of the contract then show values
    pytest.register_assert_rewrite("bss_service.testing.policies")

if TYPE_CHECKING:
    from bss_service.testing.policies import PolicyContract
else:

    def __getattr__(name: str) -> Any:
        if name != "PolicyContract":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from bss_service.testing.policies import PolicyContract  # now that pytest rewrites its assertions

        return PolicyContract
