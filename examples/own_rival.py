"""A method of your own beside the others, in one file.

python examples/own_rival.py --data emoji --rival sharper --rival-param gamma=2
"""

import sys
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from trainer_client.reference import __main__ as reference
from trainer_client.reference.rivals import Cost, Heads, Rival, register


@register("sharper")
class Sharper(Rival):
    """Hard samples count more: each loss times (1 − p)^γ, p being the joint head's probability of the label.

    Lin, Goyal, Girshick, He, Dollár: *Focal Loss for Dense Object Detection*, ICCV 2017.
    """

    paper: ClassVar[str] = "Lin et al., Focal Loss for Dense Object Detection, ICCV 2017"
    cost: ClassVar[Cost] = Cost.PLAIN
    ranges: ClassVar[dict[str, tuple[float, float]]] = {"gamma": (0.5, 5.0)}

    gamma: float = Field(2.0, ge=0)

    def loss(self, heads: Heads, labels: Tensor) -> Tensor:
        """A loss for each sample, (g,): the scheduler's weights come on top."""
        p = heads.joint.float().softmax(1).gather(1, labels[:, None])[:, 0]
        return (1 - p.detach()) ** self.gamma * super().loss(heads, labels)


if __name__ == "__main__":
    sys.exit(reference.main())
