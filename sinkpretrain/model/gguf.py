"""What a GGUF file says that transformers does not read: quantisation, RoPE scaling, and reasons to refuse it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sinkpretrain.errors import ConfigError, DataError
from sinkpretrain.model.layers import scaled_frequency

MAGIC = b"GGUF"
FLOATS = ("F32", "F16", "BF16")
# Only the divisors of the frequencies are in the file. All released models with them were made with these numbers.
LLAMA3_BAND = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


class GgufFile:
    """The metadata of a GGUF file; tensors stay on disk.

    Raises:
        DataError: it cannot be read.
        ConfigError: an architecture that is not a plain Llama.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            reader = GGUFReader(path)
        except Exception as error:  # a cut file makes numpy or the reader fail, each in its way
            raise DataError(f"{path}: cannot be read as GGUF ({error}); fetch it again") from error
        self.fields = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._refuse()

    @property
    def elements(self) -> int:
        """How many numbers its tensors have."""
        return sum(int(tensor.n_elements) for tensor in self.tensors.values())

    def weights(self) -> str:
        """How the file stores the weights, and what that means for the model."""
        from gguf import LlamaFileType

        number = self.fields.get("general.file_type")
        known = {kind.value: kind.name.removeprefix("ALL_").removeprefix("MOSTLY_") for kind in LlamaFileType}
        name = known.get(number, "") or ", ".join(sorted({t.tensor_type.name for t in self.tensors.values()}))
        return name if name in FLOATS else f"{name}: dequantised, not the original model"

    def rope_parameters(self, hub: Any) -> dict[str, Any] | None:
        """RoPE scaling as the `rope_parameters` of the hub's configuration of this file; None where there is none.

        Raises:
            ConfigError: a scaling other than linear and llama3.
        """
        theta, head_size = hub.rope_parameters["rope_theta"], hub.hidden_size // hub.num_attention_heads
        kind = self.fields.get("llama.rope.scaling.type", "none")
        if kind == "linear":
            return {"rope_type": "linear", "rope_theta": theta, "factor": self.fields["llama.rope.scaling.factor"]}
        if kind != "none":
            raise ConfigError(
                f"{self.path}: llama.rope.scaling.type {kind!r} is not one of none, linear; choose another model"
            )
        if "rope_freqs.weight" not in self.tensors:
            return None
        return self._llama3(np.asarray(self.tensors["rope_freqs.weight"].data, dtype=np.float32), theta, head_size)

    def _llama3(self, divisor: NDArray[np.float32], theta: float, head_size: int) -> dict[str, Any]:
        """The llama3 scaling that gives these divisors."""
        frequency = 1.0 / theta ** (torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        parameters = {"rope_type": "llama3", "rope_theta": theta, "factor": float(divisor.max()), **LLAMA3_BAND}
        named = {"name": "llama3", "original_context_length": LLAMA3_BAND["original_max_position_embeddings"]}
        expected = scaled_frequency(frequency, {**parameters, **named})
        if not torch.allclose(frequency / torch.tensor(divisor), expected, rtol=1e-5, atol=0.0):
            raise ConfigError(
                f"{self.path}: its rope_freqs.weight are not those of the llama3 scaling with {LLAMA3_BAND}; import "
                "the model from its Hugging Face folder instead"
            )
        return parameters

    def _refuse(self) -> None:
        architecture = self.fields.get("general.architecture")
        biases = [name for name in self.tensors if name.endswith(".bias")]
        reason = None
        if architecture != "llama":
            reason = f"its general.architecture is {architecture!r}; a file that can be imported has 'llama'"
        elif self.fields.get("llama.expert_count"):
            reason = f"it is a mixture of {self.fields['llama.expert_count']} experts"
        elif biases:
            reason = f"it has biases ({biases[0]}), and our Llama has none"
        if reason is not None:
            raise ConfigError(f"{self.path}: {reason}; choose a model of the Llama family")
