"""Scores of answers: those of one sequence an answer, whatever shares a batch."""

import pytest
import torch

from sinkpretrain.errors import ConfigError
from sinkpretrain.evaluation.scoring import Question, batches, score
from sinkpretrain.model.generation import generate
from sinkpretrain.model.llama import Llama, ModelConfig

CONTEXT = 32


@pytest.fixture(scope="module", params=["softmax", "sigmoid", "kv_bias"])
def model(request):
    sizes = dict(vocab_size=29, n_layers=3, n_heads=2, d_model=16, d_ff=24, context_length=CONTEXT)
    built = Llama(ModelConfig(**sizes, attention={"weights": {"name": request.param}}), seed=1).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return built


def questions():
    generator = torch.Generator().manual_seed(0)

    def tokens(count):
        return torch.randint(29, (count,), generator=generator).tolist()

    sizes = [(3, (1, 2, 5)), (20, (4,)), (28, (1, 6, 9)), (40, (2, 30)), (1, (1, 1))]
    return [Question(prompt=tokens(of), answers=[tokens(size) for size in answers]) for of, answers in sizes]


@torch.no_grad()
def expected(model, question, answer):
    """From a sequence of its own, as lm-evaluation-harness cuts it: the last tokens that fit, the very last not fed."""
    whole = (question.prompt + answer)[-(CONTEXT + 1) :]
    logprob_TV = model(torch.tensor([whole[:-1]]))[0].log_softmax(dim=-1)[-len(answer) :]
    target_T = torch.tensor(answer)
    total = logprob_TV.gather(1, target_T[:, None]).sum()
    return float(total), bool((logprob_TV.argmax(dim=-1) == target_T).all())


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_scores_are_those_of_each_answer_alone(model, batch_tokens):
    asked, done = questions(), []
    found = score(model, asked, batch_tokens, done.append)
    assert [len(scores) for scores in found] == [len(question.answers) for question in asked]
    for question, scores in zip(asked, found, strict=True):
        for answer, got in zip(question.answers, scores, strict=True):
            logprob, greedy = expected(model, question, answer)
            assert got.logprob == pytest.approx(logprob, abs=2e-4)
            assert got.greedy == greedy
    assert done[-1] == len(asked)


def test_a_greedy_answer_is_what_generation_gives(model):
    prompt = [3, 1, 4, 1, 5]
    answer = generate(model, [prompt], new_tokens=6)[0]
    wrong = [*answer[:-1], (answer[-1] + 1) % 29]
    right, other = score(model, [Question(prompt=prompt, answers=[answer, wrong])])[0]
    assert right.greedy
    assert not other.greedy


def test_generation_stops_where_it_is_told_and_at_the_context(model):
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    free = generate(model, prompts, new_tokens=9)
    assert [len(tokens) for tokens in free] == [9, 9]
    assert generate(model, prompts, new_tokens=9, stop=lambda tokens: len(tokens) == 4) == [of[:4] for of in free]
    end = free[0][3]
    ended = generate(model, prompts, new_tokens=9, eos=end)
    for got, whole in zip(ended, free, strict=True):
        assert got == (whole[: whole.index(end)] if end in whole else whole)
    assert len(generate(model, [[1] * 30], new_tokens=99)[0]) == 2
    with pytest.raises(ConfigError, match="32 tokens; allowed: 1 .. 31"):
        generate(model, [[1] * 32], new_tokens=1)
    with pytest.raises(ConfigError, match="empty"):
        generate(model, [[1], []], new_tokens=1)


def test_batches_hold_each_sequence_once_within_the_limit():
    lengths = [5, 30, 7, 100, 2, 2, 30]
    found = list(batches(lengths, 64))
    assert sorted(index for batch in found for index in batch) == list(range(7))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 64 for batch in found)
