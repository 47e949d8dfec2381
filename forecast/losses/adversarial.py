"""Conditional GANs: hinge losses, and an auxiliary classifier that tells real from made within each class.

Logits of the discriminative classifier are (B, 2K): class 2y is "real, of class y", 2y + 1 "made, of class y".
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from forecast.losses.common import Loss, leave_out, reduce, require, same_shape, wide, without_masked
from forecast.losses.registry import register
from forecast.losses.targets import classes


@wide
def adc_discriminator(
    real: Tensor,
    made: Tensor,
    real_labels: Tensor,
    made_labels: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CE(real, 2y) + CE(made, 2y + 1): the classifier learns the class and whether it was made, jointly.

    With one class it is the ordinary two-class discriminator.

    Args:
        real, made: (B, 2K) logits. real_labels, made_labels: (B,) class numbers of 0..K-1.

    Returns:
        The loss, by pair (B,) before the reduction.

    Raises:
        ForecastError: shapes that do not match, an odd number of logits, a label out of range.
    """
    same_shape(real=real, made=made)
    real, made = leave_out(mask, real.shape[:1], real, made)
    return reduce(_entropy(real, real_labels, 0) + _entropy(made, made_labels, 1), reduction, weight, mask)


@wide
def adc_generator(
    made: Tensor,
    made_labels: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """CE(made, 2y) - CE(made, 2y + 1) = logit of "made" minus logit of "real", in the sample's own class.

    Unbounded below, as is the generator's hinge loss beside it.

    Args:
        made: (B, 2K) logits of generated samples. made_labels: (B,) class numbers of 0..K-1.

    Raises:
        ForecastError: shapes that do not match, an odd number of logits, a label out of range.
    """
    (made,) = leave_out(mask, made.shape[:1], made)
    return reduce(_entropy(made, made_labels, 0) - _entropy(made, made_labels, 1), reduction, weight, mask)


@wide
def hinge_discriminator(
    real: Tensor,
    made: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(made)), by pair; scores of one shape, (B, *)."""
    same_shape(real=real, made=made)
    real, made = without_masked(real, mask), without_masked(made, mask)
    return reduce(relu(1 - real) + relu(1 + made), reduction, weight, mask)


@wide
def hinge_generator(
    made: Tensor, *, reduction: str = "mean", weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """-D(made); scores (B, *)."""
    return reduce(-made, reduction, weight, mask)


def _entropy(logits: Tensor, labels: Tensor, made: int) -> Tensor:
    require(logits.ndim == 2 and logits.shape[1] % 2 == 0, "logits", tuple(logits.shape), "must be (B, 2K)")
    joint = logits.log_softmax(-1).unflatten(1, (-1, 2))[..., made]
    return -classes(joint, labels, ignore_index=-1).pick(joint)


@register(
    "adc_discriminator",
    formula="CE(D(real), 2y) + CE(D(made), 2y + 1)",
    source="Hou et al. 2022, Conditional GANs with auxiliary discriminative classifier; train_fns.py",
    use="downscaling GAN conditioned on a weather regime, discriminator's side",
    status="verified",
    takes="other",
)
class ADCDiscriminatorLoss(Loss, of=adc_discriminator):
    """`adc_discriminator` with its settings fixed."""


@register(
    "adc_generator",
    formula="CE(D(made), 2y) - CE(D(made), 2y + 1)",
    source="Hou et al. 2022, Conditional GANs with auxiliary discriminative classifier; train_fns.py",
    use="downscaling GAN conditioned on a weather regime, generator's side",
    status="verified",
    takes="other",
)
class ADCGeneratorLoss(Loss, of=adc_generator):
    """`adc_generator` with its settings fixed."""


@register(
    "hinge_discriminator",
    formula="max(0, 1 - D(real)) + max(0, 1 + D(made))",
    source="Lim and Ye 2017, Geometric GAN; as ADC-GAN uses it",
    use="critic of generated fields, beside the class-wise one",
    status="verified",
    takes="other",
)
class HingeDiscriminatorLoss(Loss, of=hinge_discriminator):
    """`hinge_discriminator` with its settings fixed."""


@register(
    "hinge_generator",
    formula="-D(made)",
    source="Lim and Ye 2017, Geometric GAN; as ADC-GAN uses it",
    use="realism of generated fields, beside an ensemble score",
    status="verified",
    takes="other",
)
class HingeGeneratorLoss(Loss, of=hinge_generator):
    """`hinge_generator` with its settings fixed."""
