"""Our Llama as a model of lm-evaluation-harness, with the numbers that its own Hugging Face model would give.

What differs is the work: the prompt of several answers is computed once. Within `calibrate`, sinks are detected in the
prompt, so answers do not change them.
"""

import copy
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.evaluation.chat import ChatTemplate
from sinkpretrain.evaluation.encoding import Encoder
from sinkpretrain.evaluation.scoring import score
from sinkpretrain.evaluation.sharing import Request, in_runs, shared
from sinkpretrain.model.generation import generate
from sinkpretrain.model.llama import Llama
from sinkpretrain.progress import Display

MAX_NEW_TOKENS = 256  # where a task names no number, as in lm-evaluation-harness
BATCHES_SAVED = 8  # batches of questions after which answers go to the cache
WITHOUT_EFFECT = ("top_p", "top_k")  # under greedy generation

Span = tuple[int, int]


class SinkpretrainLM(TemplateLM):  # type: ignore[misc]
    """A model, its encoder and how it is batched.

    `receivers` maps prompts to the characters whose tokens receive what ACT takes from sinks (`question_only`,
    `choices_only`), and `receive` is told them before each pass; `on_batch` is called when a batch is done, before its
    answers reach the cache.
    """

    def __init__(
        self,
        model: Llama,
        encoder: Encoder,
        *,
        batch_tokens: int = 4096,
        template: ChatTemplate | None = None,
        label: str = "scoring",
    ) -> None:
        super().__init__()
        self.model, self.encoder, self.batch_tokens, self.label = model, encoder, batch_tokens, label
        self.template = template
        self.receivers: Mapping[str, Span] | None = None
        self.receive: Callable[[Tensor | None], None] | None = None
        self.on_batch: Callable[[], None] = lambda: None
        self._device = model.embedding.weight.device

    @property
    def max_length(self) -> int:
        """The longest sequence, prompt and answer."""
        return self.model.config.context_length

    @property
    def eot_token_id(self) -> int:
        """What ends generated text."""
        return self.encoder.end

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty prompt."""
        return self.encoder.prefix

    @property
    def tokenizer_name(self) -> str:
        """Changes with the tokenizer and with what is put around text."""
        seen = f"{self.encoder.tokenizer.to_str()} {self.encoder.begins} {self.encoder.prefix}"
        return f"sinkpretrain-{hashlib.sha256(seen.encode()).hexdigest()[:16]}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text, as `Encoder.encode` says."""
        return self.encoder.encode(string, add_special_tokens)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The model's template, for the harness's record; None where none is asked for.

        Raises:
            ConfigError: the model has none, or a template other than its own is named.
        """
        if chat_template is False or chat_template is None:
            return None
        if isinstance(chat_template, str):
            raise ConfigError(f"chat template {chat_template!r}: a model here has one at most; use True")
        return self._template.text

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's own template writes it.

        Raises:
            ConfigError: the model has none.
        """
        return self._template.render(chat_history, add_generation_prompt)

    @property
    def _template(self) -> ChatTemplate:
        if self.template is None:
            raise ConfigError("this model brought no chat template; evaluate it without one")
        return self.template

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.encoder.pair(context, continuation)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(summed log-probability in nats, whether greedy) of each (prompt, answer)."""
        pairs: list[Request] = [(request.args, *self.encoder.pair(*request.args)) for request in requests]
        return self._loglikelihood_tokens(pairs)

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = True, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        groups = shared(requests, self.max_length, self._receivers)
        with Display(self.label, len(requests)) as display:
            for batch in in_runs(groups, BATCHES_SAVED * self.batch_tokens, lambda group: group.tokens):
                questions = [group.question for group in batch]
                scores = score(self.model, questions, self.batch_tokens, receive=self.receive)
                self.on_batch()
                for group, of_answers in zip(batch, scores, strict=True):
                    for number, found in group.by_request(of_answers):
                        answers[number] = (found.logprob, found.greedy)
                        text = requests[number][0]
                        if text is not None:
                            self.cache_hook.add_partial("loglikelihood", text, answers[number])
                display.advance(sum(group.requests for group in batch))
        return answers

    def _receivers(self, prompt: str) -> list[bool] | None:
        if self.receivers is None:
            return None
        if prompt not in self.receivers:
            raise DataError(f"no receiving characters are known for the prompt that ends in {prompt[-60:]!r}")
        return self.encoder.covered(prompt, self.receivers[prompt])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """The log-probability of each whole text in nats, in windows of the context length.

        ACT sees sinks only in what a window does not predict, which is one token but in the last window.
        """
        windows: list[Request] = []
        counts = []
        for request in requests:
            found = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs: list[Request] = [(None, *make_disjoint_window(window)) for window in found]
            windows += pairs
            counts.append(len(pairs))
        parts = iter(self._loglikelihood_tokens(windows))
        totals = [sum(part[0] for part in itertools.islice(parts, count)) for count in counts]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Greedy continuations, each up to its first stop string.

        Raises:
            ConfigError: arguments that ask for anything but greedy generation.
        """
        texts = [""] * len(requests)
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        with Display(self.label, len(requests)) as display:
            for numbers in _same_arguments([request.args[1] for request in requests]):
                until, new_tokens = self._greedy(requests[numbers[0]].args[1])
                longest = self.max_length - new_tokens
                numbers.sort(key=lambda number: -len(prompts[number]))
                size = {n: min(len(prompts[n]), longest) + new_tokens for n in numbers}
                for batch in in_runs(numbers, self.batch_tokens, size.__getitem__):
                    kept = [prompts[number][-longest:] for number in batch]
                    for number, text in zip(batch, self._generated(kept, until, new_tokens), strict=True):
                        texts[number] = text
                    self.on_batch()
                    for number in batch:
                        self.cache_hook.add_partial("generate_until", requests[number].args, texts[number])
                    display.advance(len(batch))
        return texts

    def _generated(self, prompts: Sequence[list[int]], until: list[str], new_tokens: int) -> list[str]:
        decode = self.encoder.tokenizer.decode
        tail = 4 * max(map(len, until)) + 4  # tokens: a character has at most four bytes, a token at least one

        def stop(tokens: list[int]) -> bool:
            end = decode(tokens[-tail:], skip_special_tokens=True)
            return any(term in end for term in until if term)

        found = generate(self.model, prompts, new_tokens=new_tokens, stop=stop, eos=self.eot_token_id)
        return [postprocess_generated_text(decode(ids, skip_special_tokens=True), until, None) for ids in found]

    def _greedy(self, arguments: Mapping[str, Any]) -> tuple[list[str], int]:
        """The stop strings and the number of new tokens that a task asks for."""
        asked: dict[str, Any] = dict(normalize_gen_kwargs(copy.deepcopy(dict(arguments)), MAX_NEW_TOKENS))
        until = handle_stop_sequences(asked.pop("until", None), eos=self.encoder.text(self.eot_token_id))
        new_tokens, sampled = int(asked.pop("max_gen_toks")), asked.pop("do_sample", False)
        hot = asked.pop("temperature", 0.0)
        other = {key: value for key, value in asked.items() if key not in WITHOUT_EFFECT}
        if sampled or hot or other:
            listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items() if key != "until")
            raise ConfigError(f"generation_kwargs: {listed}: only greedy generation is there; set do_sample: false")
        if not 0 < new_tokens < self.max_length:
            raise ConfigError(
                f"generation_kwargs: max_gen_toks {new_tokens} leaves no room for a prompt in a context of "
                f"{self.max_length} tokens; allowed: 1 .. {self.max_length - 1}"
            )
        return until, new_tokens


def _same_arguments(arguments: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The numbers of requests whose generation arguments are the same."""
    found: dict[str, list[int]] = {}
    for number, one in enumerate(arguments):
        found.setdefault(repr(one), []).append(number)
    return list(found.values())
