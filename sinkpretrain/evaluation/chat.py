"""The chat template of an imported model, where its source brought one: how a conversation becomes a prompt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sinkpretrain.errors import DataError
from sinkpretrain.evaluation.encoding import Encoder
from sinkpretrain.records import read_record
from sinkpretrain.runs import Run


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A Jinja template and the texts of the special tokens that it may name."""

    text: str
    bos: str
    eos: str

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation, messages of `role` and `content`, as transformers would render it.

        Without a generation prompt the last message is left open, to be continued.

        Raises:
            DataError: the template refuses the conversation, or is broken.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            (found,), _ = render_jinja_template(
                conversations=[list(messages)],
                chat_template=self.text,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                bos_token=self.bos,
                eos_token=self.eos,
            )
        except Exception as error:  # of Jinja, of its sandbox, or of what the template computes
            raise DataError(f"the model's chat template cannot render this conversation ({error})") from error
        return str(found)


def template_of(run: Run, encoder: Encoder) -> ChatTemplate | None:
    """The chat template of an imported model; None for a model trained here, or one whose source brought none."""
    if not run.source_path.exists():
        return None
    source = read_record(run.source_path, "sinkpretrain import")
    text = source["chat_template"] if "chat_template" in source else _in_folder(Path(source["source"]))
    if text is None:
        return None
    return ChatTemplate(text=text, bos=encoder.text(encoder.prefix), eos=encoder.text(encoder.end))


def _in_folder(folder: Path) -> str | None:
    """The template in a Hugging Face folder, for models imported before the run folder kept it."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
    return found if isinstance(found, str) else None
