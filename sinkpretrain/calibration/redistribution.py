"""Where the attention of sinks goes: each way as a function of a block of rows.

Shapes use B batch, S key positions, R a block of query rows, H query heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkpretrain.calibration.settings import Settings

NEGLIGIBLE = 1e-6  # of a row's mass: with less than that to give to or to take from, a row stays as it is


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of one layer are to each head."""

    sinks_BHS: Tensor
    first_BS: Tensor  # the first token of each document
    receivers_BS: Tensor | None  # the positions that `question_only` and `choices_only` give to
    turn_BHS: Tensor | None  # the random order in which other columns give, in the control `columns: random`

    def upto(self, keys: int) -> "Columns":
        """The first columns."""
        return Columns(
            sinks_BHS=self.sinks_BHS[..., :keys],
            first_BS=self.first_BS[..., :keys],
            receivers_BS=None if self.receivers_BS is None else self.receivers_BS[..., :keys],
            turn_BHS=None if self.turn_BHS is None else self.turn_BHS[..., :keys],
        )


def calibrated(weights_BHRS: Tensor, visible: Tensor, columns: Columns, settings: Settings) -> Tensor:
    """The weights after calibration; each row keeps its mass (2406.15765, sections 4.2 and 5.3)."""
    columns = columns.upto(weights_BHRS.shape[-1])
    if columns.turn_BHS is not None:
        return _equal_mass(weights_BHRS, columns, settings)
    if settings.method == "act":
        return _act(weights_BHRS, visible, columns, settings)
    if settings.method == "inverse":
        return _inverse(weights_BHRS, columns, settings)
    theta = settings.theta if settings.method == "temperature" else 1 / settings.theta
    return _temperature(weights_BHRS, columns, theta)


def _act(weights_BHRS: Tensor, visible: Tensor, columns: Columns, settings: Settings) -> Tensor:
    """Sinks keep beta of their weight; the rest goes to the receivers of the row, if they have any mass."""
    sinks_BH1S = columns.sinks_BHS[:, :, None]
    is_receiver = _may_receive(columns, settings)
    if settings.needs_receivers:
        assert columns.receivers_BS is not None
        is_receiver = is_receiver & columns.receivers_BS[:, None, None]
    freed_BHR1 = (1 - settings.beta) * _sum(weights_BHRS, sinks_BH1S)
    received_BHR1 = _sum(weights_BHRS, is_receiver)
    if settings.redistribution == "uniform":
        places_BHR1 = (is_receiver & visible).sum(dim=-1, keepdim=True)
        more_BHRS = weights_BHRS + _divided(freed_BHR1, places_BHR1) * visible
    else:
        more_BHRS = weights_BHRS * (1 + _divided(freed_BHR1, received_BHR1))
    other_BHRS = torch.where(is_receiver, more_BHRS, weights_BHRS)
    moved_BHRS = torch.where(sinks_BH1S, weights_BHRS * settings.beta, other_BHRS)
    return torch.where(_is_some(received_BHR1, weights_BHRS), moved_BHRS, weights_BHRS)


def _equal_mass(weights_BHRS: Tensor, columns: Columns, settings: Settings) -> Tensor:
    """A control: sinks keep their weight, and the mass that ACT would move comes from other columns but the first.

    In each row they give in a random order, until they hold that mass; a row whose others hold less gives what it has.
    """
    assert columns.turn_BHS is not None
    needed_BHR1 = (1 - settings.beta) * _sum(weights_BHRS, columns.sinks_BHS[:, :, None])
    may_give_BH1S = ~columns.sinks_BHS[:, :, None] & ~columns.first_BS[:, None, None]
    order_BHRS = columns.turn_BHS.argsort(dim=-1)[:, :, None].expand_as(weights_BHRS)
    in_turn_BHRS = torch.where(may_give_BH1S, weights_BHRS, 0.0).gather(-1, order_BHRS)
    gives_BHRS = in_turn_BHRS.cumsum(dim=-1) - in_turn_BHRS < needed_BHR1
    is_donor_BHRS = torch.zeros_like(gives_BHRS).scatter(-1, order_BHRS, gives_BHRS) & may_give_BH1S
    is_receiver_BHRS = _may_receive(columns, settings) & ~is_donor_BHRS
    given_BHR1, received_BHR1 = _sum(weights_BHRS, is_donor_BHRS), _sum(weights_BHRS, is_receiver_BHRS)
    freed_BHR1 = needed_BHR1.minimum(given_BHR1)
    less_BHRS = weights_BHRS * (1 - _divided(freed_BHR1, given_BHR1))
    more_BHRS = weights_BHRS * (1 + _divided(freed_BHR1, received_BHR1))
    moved_BHRS = torch.where(is_donor_BHRS, less_BHRS, torch.where(is_receiver_BHRS, more_BHRS, weights_BHRS))
    return torch.where(_is_some(received_BHR1, weights_BHRS), moved_BHRS, weights_BHRS)


def _may_receive(columns: Columns, settings: Settings) -> Tensor:
    """The columns outside S, with the first token or without, [B, H, 1, S]."""
    is_receiver_BH1S = ~columns.sinks_BHS[:, :, None]
    return is_receiver_BH1S if settings.to_first else is_receiver_BH1S & ~columns.first_BS[:, None, None]


def _inverse(weights_BHRS: Tensor, columns: Columns, settings: Settings) -> Tensor:
    """All other columns keep beta of their weight; the rest goes to the sinks of the row, in proportion."""
    sinks_BH1S = columns.sinks_BHS[:, :, None]
    is_donor = _may_receive(columns, settings)
    freed_BHR1 = (1 - settings.beta) * _sum(weights_BHRS, is_donor)
    received_BHR1 = _sum(weights_BHRS, sinks_BH1S)
    more_BHRS = weights_BHRS * (1 + _divided(freed_BHR1, received_BHR1))
    moved_BHRS = torch.where(sinks_BH1S, more_BHRS, torch.where(is_donor, weights_BHRS * settings.beta, weights_BHRS))
    return torch.where(_is_some(received_BHR1, weights_BHRS), moved_BHRS, weights_BHRS)


def _temperature(weights_BHRS: Tensor, columns: Columns, theta: float) -> Tensor:
    """A^(1/theta) over all columns but the first token's, rescaled to their mass in the row."""
    is_other = ~columns.first_BS[:, None, None]
    flatter_BHRS = torch.where(is_other, weights_BHRS, 0.0) ** (1 / theta)
    mass_BHR1 = _sum(weights_BHRS, is_other)
    rescaled_BHRS = flatter_BHRS * _divided(mass_BHR1, flatter_BHRS.sum(dim=-1, keepdim=True))
    return torch.where(is_other & _is_some(mass_BHR1, weights_BHRS), rescaled_BHRS, weights_BHRS)


def _sum(weights_BHRS: Tensor, chosen: Tensor) -> Tensor:
    """The mass of each row in the chosen columns, summed by itself: a difference of sums would cancel."""
    return torch.where(chosen, weights_BHRS, 0.0).sum(dim=-1, keepdim=True)


def _divided(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where the whole is 0."""
    return part / whole.to(part.dtype).masked_fill(whole == 0, torch.inf)


def _is_some(part_BHR1: Tensor, weights_BHRS: Tensor) -> Tensor:
    """Whether a part of each row is more than a negligible one."""
    return part_BHR1 > NEGLIGIBLE * weights_BHRS.sum(dim=-1, keepdim=True)
