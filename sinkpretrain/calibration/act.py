"""ACT on a model: `with calibrate(model, heads="all") as act: model(tokens_BT)`.

Shapes use B batch, T query positions, S key positions, R a block of query rows, H query heads, G key-value heads,
D head size.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sinkpretrain.attention.base import AttentionWeights, Mask
from sinkpretrain.calibration.detection import Prompt, attention_scores, sinks_of
from sinkpretrain.calibration.fused import NEARLY_ALL, ROWS, SoftmaxRows
from sinkpretrain.calibration.redistribution import Columns, calibrated
from sinkpretrain.calibration.settings import Heads, Settings
from sinkpretrain.errors import ConfigError, check
from sinkpretrain.interventions.base import NothingChanged, weights_of
from sinkpretrain.metrics.base import at_least_float32
from sinkpretrain.model.llama import Llama


@contextmanager
def calibrate(
    model: Llama, heads: Heads | Literal["all"] = "all", settings: Settings | None = None, **changes: Any
) -> Iterator["Act"]:
    """ACT inside the block: in the chosen heads, each row gives attention that later sinks hold to other tokens.

    Which columns are sinks is decided anew for each sequence (2406.15765, section 4.3). A forward pass of plain tokens
    decides by all rows, so that its logits depend on later tokens too; with `shared_prompt` by the rows of the prompt
    alone, and a pass that goes on from a cache keeps the sinks of the pass that began it. What is read from the weights
    meanwhile (`weight_rows`, metrics) is calibrated too. A compiled model runs uncompiled.

    Leaving the block warns of `NothingChanged` where ACT was a no-op in all of it.

    Args:
        model: of any weights kind.
        heads: (layer, head) pairs, or all heads of the layers that `settings` allows.
        settings: ACT's; fields given by name replace theirs.

    Raises:
        ConfigError: a head or layer that the model does not have or the settings do not allow; a bad setting.
    """
    with applied(model, heads, replace(settings or Settings(), **changes)) as act:
        yield act
    if why := act.why_nothing():
        warnings.warn(f"ACT is a no-op: {why}", NothingChanged, stacklevel=3)


@contextmanager
def applied(model: Llama, heads: Heads | Literal["all"], settings: Settings) -> Iterator["Act"]:
    """`calibrate` for callers that look at the effect themselves: it warns of nothing."""
    act = Act(model, heads, settings)
    with torch.compiler.set_stance("force_eager"):
        for layer, seam in act.seams.items():
            weights_of(model, layer).calibration = seam
        try:
            yield act
        finally:
            for layer in act.seams:
                weights_of(model, layer).calibration = None


class Act:
    """The state of ACT on a model: which heads it calibrates, and which columns of the latest pass were sinks."""

    def __init__(self, model: Llama, heads: Heads | Literal["all"], settings: Settings) -> None:
        self.settings = settings
        self.sinks: dict[int, Tensor] = {}  # layer -> bool [B, H, S], of the latest pass; False in other heads
        self.saw_sink: set[tuple[int, int]] = set()  # heads that met a sink in any pass
        self.moved_mass, self.rows = 0.0, 0  # mass moved in all passes, over so many rows of heads that met a sink
        self.reached: set[int] = set()  # layers that a pass, or a reader of weights, went through
        self.receivers_BT: Tensor | None = None  # where `question_only` or `choices_only` give to; set before a pass
        self.heads = _chosen_heads(model, heads, settings)
        self.seams: dict[int, LayerSeam] = {}
        for layer in sorted({layer for layer, _ in self.heads}):
            if weights_of(model, layer).calibration is not None:
                raise ConfigError(f"layer {layer} is calibrated already; leave the outer calibrate block first")
            chosen_H = torch.zeros(model.config.n_heads, dtype=torch.bool, device=model.embedding.weight.device)
            chosen_H[[head for of, head in self.heads if of == layer]] = True
            self.seams[layer] = LayerSeam(self, layer, chosen_H)

    def why_nothing(self) -> str:
        """Why no weight was changed so far; empty where some were."""
        settings = self.settings
        if not self.heads:
            return "no head was chosen"
        if not self.reached:
            return "no forward pass of this model reached a calibrated layer"
        if settings.is_identity:
            return "its settings change nothing (beta 1, or theta 1)"
        if settings.needs_sinks and not self.saw_sink:
            return f"none of the {len(self.heads)} heads met a later sink in what was read"
        if self.rows and not self.moved_mass:
            return "no row that has a sink has other attention to trade with it"
        return ""

    def note_moved(self, moved_NRS: Tensor) -> None:
        """Count the mass that was taken from each column of some rows; rows of padding are among them."""
        self.moved_mass += float(moved_NRS.detach().sum())
        self.rows += moved_NRS.shape[0] * moved_NRS.shape[1]


class LayerSeam:
    """What stands in the seam of one calibrated layer.

    `chosen` says which heads are calibrated, [H], or for each element of the batch on its own, [B, H].
    """

    def __init__(self, act: Act, layer: int, chosen: Tensor) -> None:
        self.act, self.layer, self.chosen = act, layer, chosen

    def mix(self, kind: AttentionWeights, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask) -> Tensor:
        """The values mixed by the calibrated weights; heads without sinks are those of the plain path, bit for bit."""
        settings = self.act.settings
        self.act.reached.add(self.layer)
        rows = self._fast_rows(kind, q_BTHD, k_BSGD, v_BSGD, mask)
        sinks_BHS = self._sinks(kind, q_BTHD, k_BSGD, mask, rows)
        touched_BH = sinks_BHS.any(dim=-1) if settings.needs_sinks else self.chosen.expand(sinks_BHS.shape[:2])
        if settings.is_identity or not touched_BH.any():
            return kind.mix_plain(q_BTHD, k_BSGD, v_BSGD, mask)
        columns = self._columns(kind, sinks_BHS, mask)

        def edit(weights_BHRS: Tensor, visible: Tensor) -> Tensor:
            moved_BHRS = calibrated(weights_BHRS, visible, columns, settings)
            if rows is None:
                self.act.note_moved((weights_BHRS - moved_BHRS).clamp(min=0)[touched_BH])
            return moved_BHRS

        if rows is None:
            mixed_BTHD = kind.mix_explicit(q_BTHD, k_BSGD, v_BSGD, mask, edit)
        else:
            with torch.autocast(q_BTHD.device.type, enabled=False):
                mixed_BTHD, held_BTH = rows.mixed(sinks_BHS, settings.beta, mask)
            self.act.note_moved((1 - settings.beta) * held_BTH.transpose(1, 2)[touched_BH][..., None])
            unsure_BTH = held_BTH > NEARLY_ALL
            for first in torch.unique(unsure_BTH.any(dim=2).any(dim=0).nonzero() // ROWS * ROWS).tolist():
                last = min(first + ROWS, mask.tokens)
                sure_BRHD = kind.mix_rows(q_BTHD[:, first:last], k_BSGD[:, :last], v_BSGD[:, :last], mask, first, edit)
                unsure_BRH1 = unsure_BTH[:, first:last, :, None]
                mixed_BTHD[:, first:last] = torch.where(unsure_BRH1, sure_BRHD, mixed_BTHD[:, first:last])
        mixed_BTHD = mixed_BTHD.to(q_BTHD.dtype)
        if touched_BH.all():
            return mixed_BTHD
        return torch.where(touched_BH[:, None, :, None], mixed_BTHD, kind.mix_plain(q_BTHD, k_BSGD, v_BSGD, mask))

    def rows(self, kind: AttentionWeights, q_BTHD: Tensor, k_BSGD: Tensor, mask: Mask) -> Iterator[tuple[int, Tensor]]:
        """Blocks of the calibrated weights."""
        settings = self.act.settings
        self.act.reached.add(self.layer)
        sinks_BHS = self._sinks(kind, q_BTHD, k_BSGD, mask, None)
        columns = self._columns(kind, sinks_BHS, mask)
        for row, weights_BHRS in kind.rows_plain(q_BTHD, k_BSGD, mask):
            if not settings.is_identity:
                last = mask.before + row + weights_BHRS.shape[2]
                visible = F.pad(mask.visible(mask.before + row, last), (0, mask.tokens - last))
                moved_BHRS = calibrated(weights_BHRS, visible, columns, settings)
                weights_BHRS = torch.where(self.chosen[..., None, None], moved_BHRS, weights_BHRS)
            yield row, weights_BHRS

    def _fast_rows(
        self, kind: AttentionWeights, q_BTHD: Tensor, k_BSGD: Tensor, v_BSGD: Tensor, mask: Mask
    ) -> SoftmaxRows | None:
        """The first pass of the fused path, where that path holds."""
        if not kind.is_plain_softmax or mask.before > 0 or torch.is_grad_enabled() or not self.act.settings.is_fused:
            return None
        with torch.autocast(q_BTHD.device.type, enabled=False):
            q_BTHD, k_BSGD, v_BSGD = (at_least_float32(x) for x in (q_BTHD, k_BSGD, v_BSGD))
            return SoftmaxRows.of(q_BTHD, k_BSGD, v_BSGD, mask, Prompt.of(mask))

    def _sinks(
        self, kind: AttentionWeights, q_BTHD: Tensor, k_BSGD: Tensor, mask: Mask, rows: SoftmaxRows | None
    ) -> Tensor:
        """The sinks of the chosen heads: found, or those of the pass that this one goes on from."""
        act = self.act
        if mask.before > 0:
            if self.layer not in act.sinks:
                raise ConfigError("the cache was begun outside this calibrate block; begin it inside")
            known_BHS = act.sinks[self.layer]
            return F.pad(known_BHS, (0, mask.tokens - known_BHS.shape[-1]))
        prompt = Prompt.of(mask)
        with torch.no_grad():
            if rows is None:
                score_BHS = attention_scores(kind, q_BTHD, k_BSGD, mask, prompt, act.settings.row_normalised)
            else:
                score_BHS = rows.score_BHS
            sinks_BHS = sinks_of(score_BHS, prompt, act.settings) & self.chosen[..., None]
        act.sinks[self.layer] = sinks_BHS
        act.saw_sink |= {(self.layer, head) for head in sinks_BHS.any(dim=-1).any(dim=0).nonzero()[:, 0].tolist()}
        return sinks_BHS

    def _columns(self, kind: AttentionWeights, sinks_BHS: Tensor, mask: Mask) -> Columns:
        """What the columns are to each head."""
        settings, prompt = self.act.settings, Prompt.of(mask)
        receivers_BS = turn_BHS = None
        if settings.needs_receivers:
            given = self.act.receivers_BT
            if given is None or given.shape[-1] > mask.tokens:
                raise ConfigError(
                    f"redistribution: '{settings.redistribution}' needs the receiving positions of the pass"
                )
            receivers_BS = F.pad(given, (0, mask.tokens - given.shape[-1]))
        if settings.columns == "random":
            turn_BHS = self._turns(kind, prompt.position_BT).expand(sinks_BHS.shape)
        return Columns(
            sinks_BHS=sinks_BHS,
            first_BS=prompt.position_BT == 0,
            receivers_BS=receivers_BS,
            turn_BHS=turn_BHS,
        )

    def _turns(self, kind: AttentionWeights, position_BS: Tensor) -> Tensor:
        """A random order of the positions of each head, [B, H, S]: the same one in every sequence."""
        generator = torch.Generator().manual_seed(self.act.settings.seed * 10_007 + self.layer)
        turn_HP = torch.rand(kind.shape.n_heads, kind.shape.context_length, generator=generator)
        return turn_HP.to(position_BS.device)[:, position_BS].transpose(0, 1)


def _chosen_heads(model: Llama, heads: Heads | Literal["all"], settings: Settings) -> list[tuple[int, int]]:
    """The heads to calibrate, sorted.

    Raises:
        ConfigError: a layer or head that the model does not have, or that the settings do not allow.
    """
    if heads == "all":
        return settings.heads(model.config.n_layers, model.config.n_heads)
    layers = settings.layers(model.config.n_layers)
    for layer, head in heads:
        check(layer in layers, "layer", layer, f"{layers.start} .. {layers.stop - 1}")
        check(0 <= head < model.config.n_heads, "head", head, f"0 .. {model.config.n_heads - 1}")
    return sorted({(int(layer), int(head)) for layer, head in heads})
