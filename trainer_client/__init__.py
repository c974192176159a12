"""What runs beside the GPU: the client, the batch sampler, and what is measured of each step.

All that a training program needs is a name of this package; its modules are internal. A name is imported when it is
first asked for, so that the client alone, `SchedulerClient` and its messages, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

_NAMES: Final = {
    "bss_service.core.signals": "EVIDENCE Signal",
    "bss_service.protocol.jobs": "JobSpec RewardSpec",
    "bss_service.protocol.policies": "PolicySpec",
    "bss_service.protocol.training": "Feedback FeedbackRequest LocalBatches Scores StepsRequest",
    "bss_service.protocol.validation": "Confusion ModalityReport ValidationReport",
    "trainer_client.client": "SchedulerClient",
    "trainer_client.logits.confusion": "ConfusionMeter",
    "trainer_client.errors": "BrokenAnswerError CertificateError ConflictError DoubleShardingError DoubleSkipError"
    " ForbiddenError GoneError InvalidValueError JobExistsError LabelError LagError OldClientError OtherJobError"
    " OutageError RefusedError"
    " SchedulerError SecondIterationError StrangeAnswerError TooEarlyError UnauthorisedError UnknownJobError",
    "trainer_client.exchange.outage": "OnOutage",
    "trainer_client.exchange.prefetch": "ScheduledBatch",
    "trainer_client.exchange.stats": "Stats",
    "trainer_client.logits.binary": "measure_binary measure_multilabel",
    "trainer_client.logits.given": "measure_losses signals_of",
    "trainer_client.logits.losses": "Pull multimodal_loss weighted",
    "trainer_client.logits.measurement": "Measurement measure",
    "trainer_client.logits.pairs": "measure_pairs",
    "trainer_client.logits.probes": "UnimodalProbes",
    "trainer_client.logits.regression": "measure_regression",
    "trainer_client.logits.rewards": "measure_rewards",
    "trainer_client.logits.sequences": "measure_tokens",
    "trainer_client.logits.validation": "ValidationMeter",
    "trainer_client.sampler": "ScheduledBatchSampler",
    "trainer_client.samples.repeated": "Repeated",
    "trainer_client.samples.with_index": "WithIndex",
}
_HOMES: Final = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)

if TYPE_CHECKING:  # the same names, for type checkers and editors
    from bss_service.core.signals import EVIDENCE as EVIDENCE
    from bss_service.core.signals import Signal as Signal
    from bss_service.protocol.jobs import JobSpec as JobSpec
    from bss_service.protocol.jobs import RewardSpec as RewardSpec
    from bss_service.protocol.policies import PolicySpec as PolicySpec
    from bss_service.protocol.training import Feedback as Feedback
    from bss_service.protocol.training import FeedbackRequest as FeedbackRequest
    from bss_service.protocol.training import LocalBatches as LocalBatches
    from bss_service.protocol.training import Scores as Scores
    from bss_service.protocol.training import StepsRequest as StepsRequest
    from bss_service.protocol.validation import Confusion as Confusion
    from bss_service.protocol.validation import ModalityReport as ModalityReport
    from bss_service.protocol.validation import ValidationReport as ValidationReport
    from trainer_client.client import SchedulerClient as SchedulerClient
    from trainer_client.errors import BrokenAnswerError as BrokenAnswerError
    from trainer_client.errors import CertificateError as CertificateError
    from trainer_client.errors import ConflictError as ConflictError
    from trainer_client.errors import DoubleShardingError as DoubleShardingError
    from trainer_client.errors import DoubleSkipError as DoubleSkipError
    from trainer_client.errors import ForbiddenError as ForbiddenError
    from trainer_client.errors import GoneError as GoneError
    from trainer_client.errors import InvalidValueError as InvalidValueError
    from trainer_client.errors import JobExistsError as JobExistsError
    from trainer_client.errors import LabelError as LabelError
    from trainer_client.errors import LagError as LagError
    from trainer_client.errors import OldClientError as OldClientError
    from trainer_client.errors import OtherJobError as OtherJobError
    from trainer_client.errors import OutageError as OutageError
    from trainer_client.errors import RefusedError as RefusedError
    from trainer_client.errors import SchedulerError as SchedulerError
    from trainer_client.errors import SecondIterationError as SecondIterationError
    from trainer_client.errors import StrangeAnswerError as StrangeAnswerError
    from trainer_client.errors import TooEarlyError as TooEarlyError
    from trainer_client.errors import UnauthorisedError as UnauthorisedError
    from trainer_client.errors import UnknownJobError as UnknownJobError
    from trainer_client.exchange.outage import OnOutage as OnOutage
    from trainer_client.exchange.prefetch import ScheduledBatch as ScheduledBatch
    from trainer_client.exchange.stats import Stats as Stats
    from trainer_client.logits.binary import measure_binary as measure_binary
    from trainer_client.logits.binary import measure_multilabel as measure_multilabel
    from trainer_client.logits.confusion import ConfusionMeter as ConfusionMeter
    from trainer_client.logits.given import measure_losses as measure_losses
    from trainer_client.logits.given import signals_of as signals_of
    from trainer_client.logits.losses import Pull as Pull
    from trainer_client.logits.losses import multimodal_loss as multimodal_loss
    from trainer_client.logits.losses import weighted as weighted
    from trainer_client.logits.measurement import Measurement as Measurement
    from trainer_client.logits.measurement import measure as measure
    from trainer_client.logits.pairs import measure_pairs as measure_pairs
    from trainer_client.logits.probes import UnimodalProbes as UnimodalProbes
    from trainer_client.logits.regression import measure_regression as measure_regression
    from trainer_client.logits.rewards import measure_rewards as measure_rewards
    from trainer_client.logits.sequences import measure_tokens as measure_tokens
    from trainer_client.logits.validation import ValidationMeter as ValidationMeter
    from trainer_client.sampler import ScheduledBatchSampler as ScheduledBatchSampler
    from trainer_client.samples.repeated import Repeated as Repeated
    from trainer_client.samples.with_index import WithIndex as WithIndex
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
