"""Policies: each looks at an observation and picks an action; some learn from the reward.

Who writes one needs the names below; what else is in here is internal.
"""

from bss_service.core.action import Action
from bss_service.core.observation import Observation
from bss_service.policies.base import Choice, Policy
from bss_service.protocol.decisions import Decision

__all__ = ["Action", "Choice", "Decision", "Observation", "Policy"]
