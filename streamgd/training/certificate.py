"""The proof that goes with a result: how steep J still is, and how far above its minimum."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np

from streamgd.objective.objective import Evaluation
from streamgd.objective.penalties import ElasticNet
from streamgd.optim.quadratic import newton_step

#: Up to so many coefficients the Hessian of all rows is made: fixed, so that nothing of the machine decides.
MOST_HESSIAN_COLUMNS = 1024
#: An estimate beyond this part of J at the best constant is not taken for a distance: J is no quadratic so far away.
NEARBY = 1e-3
#: What an excess may be estimated by.
ESTIMATES = ("newton", "lbfgs", "band", "none")


@dataclass(frozen=True)
class Certificate:
    """What is known of J - J* at the result, in units of the original target.

    Attributes
    ----------
    gradient : float or None
        Largest component of grad J; with l1 of its smallest subgradient. None of a loss with kinks.
    excess : float or None
        Estimate of J - J*; None where there is none.
    estimated_by : {"newton", "lbfgs", "band", "none"}
        ``1/2 g' H^-1 g`` with the Hessian of all rows, or with the curvature that L-BFGS remembers. ``band``: it is no
        estimate, but a bound: J less the minimum of what is nowhere above it.
    bound : float or None
        ``|g|^2 / (2 l2)``, which J - J* does not exceed once the intercept is at its best; None where the Hessian
        tells more, or without l2.
    """

    gradient: float | None
    excess: float | None
    estimated_by: str
    bound: float | None

    @classmethod
    def of(
        cls,
        theta: np.ndarray,
        evaluation: Evaluation,
        penalty: ElasticNet,
        target_scale: float,
        remembered: float | None = None,
    ) -> Self:
        """From J and its derivatives at ``theta``, in units of the standardised target.

        Parameters
        ----------
        remembered : float, optional
            The optimizer's own estimate, for where there is no Hessian.
        """
        excess, by = remembered, "lbfgs" if remembered is not None else "none"
        if evaluation.hessian is not None:
            excess, by = newton_step(theta, evaluation, penalty).decrease, "newton"
        subgradient, unit = penalty.subgradient(theta, evaluation.gradient), target_scale**2
        bound = None
        if by != "newton" and penalty.l2 > 0.0:
            bound = float((subgradient**2).sum()) / (2.0 * penalty.l2) * unit
        return cls(
            float(np.abs(subgradient).max()) * target_scale, None if excess is None else excess * unit, by, bound
        )

    def text(self, base_loss: float) -> str:
        """One line; ``base_loss`` is the mean loss of the best constant."""
        if self.estimated_by == "band":
            return f"within {self.excess:.3g} of the optimum, by the minimum of a function that is nowhere above J"
        gradient = f"the largest |grad J| is {self.gradient:.3g}"
        bound = "" if self.bound is None else f", J is at most {self.bound:.3g} above the optimum (|g|^2 / (2 l2))"
        if self.excess is None:
            return gradient + bound
        how = "1/2 g' H^-1 g" if self.estimated_by == "newton" else "by the curvature of the last steps"
        near = self.estimated_by == "newton" and self.excess <= NEARBY * base_loss
        where = f"within {self.excess:.3g} of" if near else f"about {self.excess:.3g} above"
        return f"{where} the optimum ({how}), {gradient}{bound}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``--json`` and the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """The inverse, for what a file holds.

        Raises
        ------
        ValueError
            It is none.
        """
        if not isinstance(found, dict) or set(found) != {each.name for each in fields(cls)}:
            raise ValueError("a certificate with other parts than a run writes")
        certificate = cls(**found)
        numbers = [each for each in (certificate.gradient, certificate.excess, certificate.bound) if each is not None]
        # At a kink alone there is no gradient.
        lacking = certificate.gradient is None and certificate.estimated_by != "band"
        are_numbers = all(isinstance(number, float) for number in numbers)
        if lacking or certificate.estimated_by not in ESTIMATES or not are_numbers:
            raise ValueError("a certificate of other values than a run writes")
        return certificate


def hessian_is_affordable(n_dof: int) -> bool:
    """Whether the Hessian of so many coefficients is made where it is not asked for."""
    return n_dof <= MOST_HESSIAN_COLUMNS
