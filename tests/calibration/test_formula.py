"""ACT on one layer against its formula, written here again with loops in float64.

Shapes use B batch, T query positions, S key positions, H query heads.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from sinkpretrain import registry
from sinkpretrain.attention import base
from sinkpretrain.attention.base import AttentionShape, Mask
from sinkpretrain.calibration.act import LayerSeam
from sinkpretrain.calibration.settings import Settings

TOKENS, HEADS, SIZE = 23, 4, 6
KINDS = [
    {"name": "softmax"},
    {"name": "sigmoid", "bias": "zero"},
    {"name": "sigmoid", "bias": "minus_log_context"},
    {"name": "sigmoid", "normalize": True},
    {"name": "softmax_off_by_one"},
    {"name": "learned_sink"},
    {"name": "kv_bias", "value": "learned"},
]
WAYS = {
    "act": {},
    "raw rows": {"row_normalised": False},
    "beta 0": {"beta": 0.0},
    "not to first": {"to_first": False},
    "uniform": {"redistribution": "uniform"},
    "uniform, not to first": {"redistribution": "uniform", "to_first": False},
    "question only": {"redistribution": "question_only"},
    "choices only": {"redistribution": "choices_only", "to_first": False},
    "inverse": {"method": "inverse"},
    "inverse, first kept": {"method": "inverse", "to_first": False},
    "temperature": {"method": "temperature"},
    "inverse temperature": {"method": "inverse_temperature", "theta": 1.3},
    "causal null": {"detection": "causal_null", "alpha": 2.0},
    "absolute": {"detection": "absolute", "threshold": 0.15},
}
DOCUMENTS = {
    "one document": (None, False),
    "packed": ([[0] * 9 + [1] * 14, [0] * 23], False),
    "prompt and answers": ([[0] * 12 + [1] * 4 + [2] * 5 + [-1] * 2, [-1] * 3 + [0] * 15 + [1] * 5], True),
}


def built(entry):
    options = {name: value for name, value in entry.items() if name != "name"}
    shape = AttentionShape(n_heads=HEADS, kv_heads=2, head_size=SIZE, d_model=24, context_length=32)
    kind = registry.load("attention.weights", entry["name"])(
        shape, registry.build_options("attention.weights", entry["name"], options, "test")
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in kind.parameters():
        torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    return kind


def inputs(strength=2.0):
    """Queries, keys and values; keys 5 and 16 lie where the queries of all heads point to."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, TOKENS, n, SIZE, generator=generator) for n in (HEADS, 2, 2))
    q[..., 0] += 2.0
    k[:, [5, 16], :, 0] += strength
    return q, k, v


def seam(settings, receivers_BT=None):
    act = SimpleNamespace(
        settings=settings,
        sinks={},
        saw_sink=set(),
        reached=set(),
        receivers_BT=receivers_BT,
        note_moved=lambda moved: None,
    )
    return LayerSeam(act, 0, torch.ones(HEADS, dtype=torch.bool))


def mask_of(documents):
    ids, shared = DOCUMENTS[documents]
    return Mask(TOKENS, torch.device("cpu"), None if ids is None else torch.tensor(ids), shared_prompt=shared)


def exact_weights(kind, q, k, mask):
    blocks = [rows for _, rows in kind.double().rows_plain(q.double(), k.double(), mask)]
    kind.float()
    return torch.cat(blocks, dim=2).numpy()


def layout(mask, b):
    """For each position of a sequence: its document's first position, how many tokens count, and whether it counts."""
    ids = [0] * TOKENS if mask.document_BT is None else mask.document_BT[b].tolist()
    first = {of: ids.index(of) for of in set(ids)}
    rows = []
    for of in ids:
        counts = of == 0 or not mask.shared_prompt
        rows.append((first[0 if mask.shared_prompt and of > 0 else of], ids.count(of), counts, of))
    return rows


def expected_sinks(A_TS, rows, settings):
    found = set()
    if settings.row_normalised:
        A_TS = [[a / sum(row) for a in row] for row in A_TS.tolist()]
    for k, (first, length, counts, of) in enumerate(rows):
        seeing = [i for i in range(k, TOKENS) if rows[i][3] == of and rows[i][2]]
        if not counts or k == first:
            continue
        score, place = sum(A_TS[i][k] for i in seeing) / len(seeing), k - first
        null = sum(1 / n for n in range(place + 1, length + 1)) / (length - place)
        limit = {
            "paper": settings.alpha / length,
            "causal_null": settings.alpha * null,
            "absolute": settings.threshold,
        }[settings.detection]
        if score > limit:
            found.add(k)
    return found


def expected_row(A_S, sinks, firsts, visible, settings, receivers):
    """One row after ACT, by the formulas of 2406.15765 and of this project's design, section 7."""
    mass, out = sum(A_S), list(A_S)
    S, others = [s for s in visible if s in sinks], [t for t in visible if t not in sinks]
    if "temperature" in settings.method:
        theta = settings.theta if settings.method == "temperature" else 1 / settings.theta
        rest = [t for t in visible if t not in firsts]
        part, flat = sum(A_S[t] for t in rest), sum(A_S[t] ** (1 / theta) for t in rest)
        for t in rest if part > 1e-6 * mass else []:
            out[t] = A_S[t] ** (1 / theta) * part / flat
        return out
    to = [t for t in others if settings.to_first or t not in firsts]
    if settings.method == "inverse":
        freed, held = (1 - settings.beta) * sum(A_S[t] for t in to), sum(A_S[s] for s in S)
        if held > 1e-6 * mass:
            out = [settings.beta * a if t in to else a for t, a in enumerate(out)]
            for s in S:
                out[s] = A_S[s] * (held + freed) / held
        return out
    to = [t for t in to if receivers is None or receivers[t]]
    s_k, r_k = sum(A_S[s] for s in S), sum(A_S[t] for t in to)
    if r_k <= 1e-6 * mass:
        return out
    for s in S:
        out[s] = settings.beta * A_S[s]
    for t in to:
        more = 1 / len(to) if settings.redistribution == "uniform" else A_S[t] / r_k
        out[t] = A_S[t] + (1 - settings.beta) * s_k * more
    return out


def expected(A_BHTS, mask, settings, receivers_BT):
    out, sinks_BHS = A_BHTS.copy(), np.zeros((2, HEADS, TOKENS), dtype=bool)
    for b, h in np.ndindex(2, HEADS):
        rows = layout(mask, b)
        sinks = expected_sinks(A_BHTS[b, h], rows, settings)
        sinks_BHS[b, h, sorted(sinks)] = True
        receivers = None if receivers_BT is None else receivers_BT[b].tolist()
        if not sinks and settings.method in ("act", "inverse"):
            continue
        for i in range(TOKENS):
            visible = np.flatnonzero(mask.visible(i, i + 1).expand(2, 1, 1, -1)[b, 0, 0].numpy()).tolist()
            firsts = {row[0] for row in rows}
            out[b, h, i] = expected_row(A_BHTS[b, h, i], sinks, firsts, visible, settings, receivers)
    return out, sinks_BHS


def mixed_by(kind, weights_BHTS, v):
    return kind.double().combine(torch.from_numpy(weights_BHTS), v.double()).float()


@pytest.mark.parametrize("documents", DOCUMENTS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("entry", KINDS, ids=lambda entry: "-".join(map(str, entry.values())))
def test_mixed_values_and_rows_equal_the_formula(entry, way, documents, monkeypatch):
    monkeypatch.setattr(base, "ROWS", 5)
    kind, mask = built(entry), mask_of(documents)
    q, k, v = inputs()
    settings = Settings(alpha=WAYS[way].get("alpha", 1.5), **{n: x for n, x in WAYS[way].items() if n != "alpha"})
    receivers_BT = torch.arange(TOKENS).expand(2, -1) % 3 == 1 if settings.needs_receivers else None
    A_BHTS = exact_weights(kind, q, k, mask)
    expected_BHTS, sinks_BHS = expected(A_BHTS, mask, settings, receivers_BT)
    if settings.needs_sinks and entry["name"] != "sigmoid":
        assert 0 < sinks_BHS.sum() < sinks_BHS.size, "the case shows nothing"
    place = seam(settings, receivers_BT)
    mixed_BTHD = place.mix(kind, q, k, v, mask)
    assert (place.act.sinks[0].numpy() == sinks_BHS).all()
    rows_BHTS = torch.cat([rows for _, rows in place.rows(kind, q, k, mask)], dim=2)
    assert_close(rows_BHTS, torch.from_numpy(expected_BHTS).float())
    assert_close(mixed_BTHD, mixed_by(kind, expected_BHTS, v), atol=2e-5, rtol=1e-5)  # sigmoid rows have masses of 10
    kind.float()
    assert rows_BHTS.min() >= 0
    assert (rows_BHTS[A_BHTS == 0] == 0).all(), "nothing above the diagonal or in other documents"
    mass_BHT = torch.from_numpy(A_BHTS).sum(dim=-1).float()
    assert_close(rows_BHTS.sum(dim=-1), mass_BHT, atol=0, rtol=1e-6 if way != "temperature" else 2e-6)


@pytest.mark.parametrize("strength", [2.0, 6.0, 12.0, 30.0, 100.0])
def test_the_fused_path_is_stable_where_sinks_hold_nearly_all(strength):
    """From sinks that hold half of a row to those beside which nothing is left; float64 beside it."""
    kind, mask = built({"name": "softmax"}), mask_of("one document")
    q, k, v = inputs(strength)
    settings = Settings(alpha=1.5)
    A_BHTS = exact_weights(kind, q, k, mask)
    held = np.where(expected(A_BHTS, mask, settings, None)[1][:, :, None], A_BHTS, 0).sum(-1)
    assert held.max() > {2.0: 0.5, 6.0: 0.9, 12.0: 0.99, 30.0: 0.9999, 100.0: 0.999999}[strength]
    expected_BHTS, _ = expected(A_BHTS, mask, settings, None)
    place = seam(settings)
    mixed_BTHD = place.mix(kind, q, k, v, mask)
    assert_close(mixed_BTHD, mixed_by(kind, expected_BHTS, v), atol=1e-5, rtol=1e-5)


def test_a_control_moves_the_same_mass_from_other_columns():
    kind, mask = built({"name": "softmax"}), mask_of("one document")
    q, k, v = inputs(0.6)
    act, control = seam(Settings(alpha=1.5)), seam(Settings(alpha=1.5, columns="random"))
    before = torch.from_numpy(exact_weights(kind, q, k, mask)).float()
    after = torch.cat([rows for _, rows in act.rows(kind, q, k, mask)], dim=2)
    other = torch.cat([rows for _, rows in control.rows(kind, q, k, mask)], dim=2)
    sinks_BHS = act.act.sinks[0]
    assert (control.act.sinks[0] == sinks_BHS).all()
    assert_close(other.sum(-1), before.sum(-1))
    assert_close(torch.where(sinks_BHS[:, :, None], other, 0), torch.where(sinks_BHS[:, :, None], before, 0))
    assert (other[..., 0] >= before[..., 0] - 1e-6).all(), "the first token gives nothing"
    moved, moved_by_control = ((before - rows).clamp(min=0).sum(-1) for rows in (after, other))
    held_BHT = torch.where(sinks_BHS[:, :, None], 0, before)[..., 1:].sum(-1)
    held_enough = held_BHT > moved
    assert 0.2 < held_enough.float().mean() < 1
    assert_close(moved_by_control[held_enough], moved[held_enough], atol=1e-6, rtol=1e-5)
    assert_close(moved_by_control[~held_enough], held_BHT[~held_enough], atol=1e-6, rtol=1e-5)
    few = (other < 0.99 * before).sum(-1)[held_enough].float().mean()
    assert few < 0.9 * (before > 0).sum(-1)[held_enough].float().mean(), "some are left to receive"
    assert_close(control.mix(kind, q, k, v, mask), kind.combine(other, v))
