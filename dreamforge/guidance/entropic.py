"""ESD, entropic score distillation: 3D-Mode-Collapse (Wang et al., CVPR 2024, arXiv 2401.00909).

    grad_x = w(t) (eps_hat(x_t; y^c, t) - [lambda eps_phi(x_t; y, t) + (1 - lambda) eps_phi(x_t; y, c, t)])

The first estimate has its camera dropped: it is the score of renders from anywhere, whose entropy rewards views that
differ. lambda = 0 is VSD; lambda = 1 does not look at the camera. (The authors' ``guidance_scale_lora`` is 1 - lambda.)
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from dreamforge.guidance.combine import predict
from dreamforge.guidance.estimator import Estimator, Learned, RenderScore
from dreamforge.guidance.sds import Weighting
from dreamforge.guidance.vsd import check, difference, drawn_scale
from dreamforge.schedule import check_number
from dreamforge.types import DreamforgeError, Gradient, Prior, View


@dataclass(frozen=True)
class Entropic:
    """Entropic score distillation: VSD that also rewards differing views; all but lambda_entropy as in vsd.VSD."""

    lambda_entropy: float = 0.5  # in [0, 1]; the authors' recipe
    cfg_scale: float = 7.5
    random_cfg: tuple[float, float] | None = None
    guided_estimator: bool = False
    weighting: Weighting = "sds"
    normaliser: Literal["none", "dmd"] = "none"
    perp_neg: bool = True
    use_camera: bool = True
    uncond_camera: bool = True
    estimator: Estimator = field(default_factory=Estimator)

    def __post_init__(self) -> None:
        check(self)
        check_number("lambda_entropy of Entropic", self.lambda_entropy, 0.0, 1.0)
        if self.lambda_entropy > 0 and not self.estimator.camera:
            raise DreamforgeError(
                f"Entropic got lambda_entropy {self.lambda_entropy}, but its estimator sees no cameras, so both of its "
                "estimates are the same: set estimator.camera, or lambda_entropy 0."
            )
        if self.lambda_entropy > 0 and self.estimator.camera_dropout == 0:
            raise DreamforgeError(
                f"Entropic got lambda_entropy {self.lambda_entropy}, but an estimator that never had its camera "
                "dropped does not know renders from anywhere: set estimator.camera_dropout, for example 0.1."
            )

    def build(self, prior: Prior, seed: int) -> Learned:
        """With an estimator at its start."""
        return Learned(self.gradient, self.estimator.start(prior, seed))

    def gradient(self, view: View, prior: Prior, score: RenderScore) -> Gradient:
        """w(t) (eps_hat - [lambda eps_phi(dropped) + (1 - lambda) eps_phi(camera)]) on ``view.x``."""
        scale = drawn_scale(self, view.seed)
        eps_phi = self.mixed(view, score, scale if self.guided_estimator else 1.0)
        return difference(self, view, prior, predict(self, prior, view.x_t, view.t, view.condition), scale, eps_phi)

    def mixed(self, view: View, score: RenderScore, scale: float) -> Tensor:
        """The mixture of both estimates; at the ends of lambda only the one that counts is asked for."""
        cameras, share = view.condition.cameras, self.lambda_entropy
        if share == 0:
            return score.eps(view, [cameras], scale)[0]
        if cameras is None:
            raise DreamforgeError(
                f"Entropic got lambda_entropy {share}, but the views of this term have no cameras: set it to 0."
            )
        if share == 1:
            return score.eps(view, [None], scale)[0]
        anywhere, here = score.eps(view, [None, cameras], scale)
        return share * anywhere + (1 - share) * here
