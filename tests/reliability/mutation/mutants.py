"""What is broken on purpose: things that would make a comparison wrong without a crash."""

from dataclasses import dataclass

PACKAGE = "sinkpretrain"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of one file, and the tests that should be asked first."""

    what: str
    path: str  # below the package
    old: str
    new: str
    ask: str  # tests, as pytest takes them

    @property
    def file(self) -> str:
        """The path below the root of the checkout."""
        return f"{PACKAGE}/{self.path}"


MUTANTS = (
    # ---- the variant is another one
    Mutant(
        what="sigmoid attention by a fused path that computes softmax",
        path="attention/weights/sigmoid.py",
        old="    def weights(self,",
        new="    def fused(self, q_BTHD, k_BSGD, v_BSGD, mask):  # type: ignore\n"
        "        q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BSGD, v_BSGD))\n"
        "        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)\n\n"
        "    def weights(self,",
        ask="tests/model/test_self_check.py tests/attention",
    ),
    Mutant(
        what="sigmoid attention whose definition is softmax",
        path="attention/weights/sigmoid.py",
        old="return scores_BHRS.sigmoid().masked_fill(~visible, 0.0)",
        new="return scores_BHRS.masked_fill(~visible, -torch.inf).softmax(dim=-1)",
        ask="tests/attention",
    ),
    Mutant(
        what="the gain of head-wise RMSNorm dropped",
        path="attention/output/head_rmsnorm.py",
        old="            normed_BTHD = normed_BTHD * self.gain\n",
        new="            normed_BTHD = normed_BTHD + 0 * self.gain\n",
        ask="tests/attention",
    ),
    Mutant(
        what="head-wise RMSNorm left out",
        path="attention/output/head_rmsnorm.py",
        old="        return normed_BTHD.to(mixed_BTHD.dtype)",
        new="        return mixed_BTHD + 0 * normed_BTHD",
        ask="tests/attention",
    ),
    Mutant(
        what="no output transform applied",
        path="model/llama.py",
        old="            out_BTHD = transform(out_BTHD, x_BTC)",
        new="            transform(out_BTHD, x_BTC)",
        ask="tests/model",
    ),
    Mutant(
        what="a fused causal mask that ignores documents",
        path="attention/weights/softmax.py",
        old="attn_mask=None if mask.is_causal_only else mask.dense,\n            is_causal=mask.is_causal_only,",
        new="is_causal=True,",
        ask="tests/attention tests/model",
    ),
    Mutant(
        what="queries that see one token of the future",
        path="attention/base.py",
        old="visible = index[None, :] <= index[first:last, None]\n        if self.document_BT",
        new="visible = index[None, :] <= index[first:last, None] + 1\n        if self.document_BT",
        ask="tests/attention",
    ),
    # ---- one arm is treated otherwise
    Mutant(
        what="the data of one arm shuffled",
        path="data/windows.py",
        old="            seed=data.seed,\n",
        new="            seed=data.seed + len(config.model.attention.output),\n",
        ask="tests/training/test_train.py",
    ),
    Mutant(
        what="other initial values for one arm",
        path="model/initialisation.py",
        old='f"{seed}/{name}".encode()',
        new='f"{seed}/{name}/{torch.initial_seed()}".encode()',
        ask="tests/model/test_initialisation.py",
    ),
    Mutant(
        what="the gain of one arm's norm decays",
        path="training/optimizer.py",
        old='{"params": rest, "weight_decay": 0.0}',
        new='{"params": rest, "weight_decay": config.weight_decay}',
        ask="tests/training/test_optimizer.py",
    ),
    # ---- what is measured is something else
    Mutant(
        what="the probe of first-token attention shifted by one token",
        path="metrics/base.py",
        old="            first_BHT=first_BHT,",
        new="            first_BHT=first_BHT.roll(1, dims=-1),",
        ask="tests/metrics/test_first_token_attention_metric.py",
    ),
    Mutant(
        what="ACT's score a sum instead of a mean over queries",
        path="metrics/base.py",
        old="        return self.received_BHS / self.queries_BHS\n",
        new="        return self.received_BHS / self.queries_BHS.max()\n",
        ask="tests/metrics",
    ),
    Mutant(
        what="the threshold of the sink rate lowered",
        path="metrics/sink_rate.py",
        old="THRESHOLD = 0.3",
        new="THRESHOLD = 0.2",
        ask="tests/metrics/test_sink_rate_metric.py",
    ),
    Mutant(
        what="the effective rank of energies instead of singular values",
        path="metrics/effective_rank.py",
        old="    return float(np.exp(-(p_C * np.log(p_C)).sum()))",
        new="    p_C = p_C**2 / (p_C**2).sum()\n    return float(np.exp(-(p_C * np.log(p_C)).sum()))",
        ask="tests/metrics/test_effective_rank_metric.py",
    ),
    Mutant(
        what="validation with dropout on",
        path="training/callbacks/validation.py",
        old="whole(module.model).eval()",
        new="whole(module.model).train()",
        ask="tests/training/test_train.py",
    ),
    Mutant(
        what="validation on text that is trained on",
        path="data/datamodule.py",
        old='self.validation_windows = Windows.of(store, "validation", config)',
        new='self.validation_windows = Windows.of(store, "train", config)',
        ask="tests/data tests/training/test_train.py",
    ),
    Mutant(
        what="targets that are the inputs",
        path="data/windows.py",
        old="spans_BS[:, 1:].copy()",
        new="spans_BS[:, :-1].copy()",
        ask="tests/data",
    ),
    # ---- interventions and calibration that do not act
    Mutant(
        what="an isolated position that attends to all",
        path="interventions/isolate_position.py",
        old="replace(mask, isolated=position)",
        new="replace(mask, isolated=None)",
        ask="tests/interventions",
    ),
    Mutant(
        what="super neurons that are not silenced",
        path="interventions/ablate_super_neurons.py",
        old="        hidden_BTF[..., chosen] *= 1 - share_BT1(masks[0], self.options)\n",
        new="",
        ask="tests/interventions tests/intervening",
    ),
    Mutant(
        what="ACT skipped",
        path="calibration/act.py",
        old="            weights_of(model, layer).calibration = seam",
        new="            weights_of(model, layer).calibration = None",
        ask="tests/calibration",
    ),
    Mutant(
        what="ACT that loses the mass it takes",
        path="calibration/redistribution.py",
        old="        more_BHRS = weights_BHRS * (1 + _divided(freed_BHR1, received_BHR1))",
        new="        more_BHRS = weights_BHRS",
        ask="tests/calibration",
    ),
    Mutant(
        what="ACT's random control on the chosen heads",
        path="evaluation/conditions.py",
        old="heads=sorted(drawn), settings=file.settings)",
        new="heads=chosen, settings=file.settings)",
        ask="tests/evaluation/test_evaluate.py",
    ),
    # ---- statistics
    Mutant(
        what="differences that are not paired",
        path="comparison/paired_seeds.py",
        old="    return SeedEffect(pair[1] - pair[0],",
        new="    return SeedEffect(pair[1] - pair[0][::-1],",
        ask="tests/comparison",
    ),
    Mutant(
        what="p-values that are not adjusted",
        path="evaluation/statistics.py",
        old="* np.arange(len(p), 0, -1)",
        new="* 1",
        ask="tests/evaluation/test_statistics.py",
    ),
    # ---- training that is lost or goes on wrongly
    Mutant(
        what="a resumed run without the optimizer's state",
        path="training/module.py",
        old="            optimizer.load_state_dict(scattered(dict(self._restored.optimizer), optimizer))\n",
        new="            pass\n",
        ask="tests/training/test_train.py",
    ),
    Mutant(
        what="a resumed run that reads its data from the start",
        path="training/train.py",
        old="first_step=restored.step if restored else 0",
        new="first_step=0",
        ask="tests/training/test_train.py",
    ),
    Mutant(
        what="dropout that depends on interruptions",
        path="training/module.py",
        old="        seed_pass(self.config.seed, self.step, place)\n",
        new="",
        ask="tests/training/test_train.py tests/training/test_two_ranks.py",
    ),
    Mutant(
        what="checkpoints that are not verified",
        path="checkpoints.py",
        old="        if file_sha256(path / name) != expected:",
        new="        if False:",
        ask="tests/test_checkpoints.py",
    ),
    Mutant(
        what="token stores that are not verified",
        path="training/train.py",
        old="            store.verify()\n",
        new="",
        ask="tests/training/test_train.py tests/reliability",
    ),
    Mutant(
        what="a guard that objects to nothing",
        path="training/module.py",
        old="        if objection := self.guard.judge(*judged):",
        new="        if (objection := self.guard.judge(*judged)) and False:",
        ask="tests/training/test_train.py",
    ),
)
