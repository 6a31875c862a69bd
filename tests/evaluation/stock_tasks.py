"""Items that nobody has seen, with the fields of datasets of the hub, and stock tasks on them."""

import json
import pydoc_data.topics
import random
from pathlib import Path

import yaml

TEXTS = [" ".join(text.split()) for text in pydoc_data.topics.topics.values()]
WORDS = sorted({word for text in TEXTS[:8] for word in text.split() if word.isalpha()})


def write_items(path, count, seed=0):
    """JSON lines that arc_easy, commonsense_qa, piqa, sciq and mmlu can read; some questions are long."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        answers = [" ".join(draw.sample(WORDS, draw.randint(1, 4))) for _ in range(4)]
        text = " ".join(draw.sample(WORDS, draw.choice([4, 8, 60])))
        choices = {"text": answers, "label": list("ABCD")}
        row = {"question": text, "choices": choices, "answerKey": draw.choice("ABCD"), "support": ""}
        row |= {"goal": text, "sol1": answers[0], "sol2": answers[1], "label": draw.randint(0, 1)}
        row |= {f"distractor{number}": answers[number] for number in (1, 2, 3)}
        lines.append(json.dumps({**row, "correct_answer": answers[0]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def write_documents(path):
    """A dozen documents of real text for the embedded tasks; the held-out text of the small run is one document."""
    found = [text for text in pydoc_data.topics.topics.values() if len(text) > 3000][:12]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    return path


def stock_task(name, path, **changes):
    """A task as lm-evaluation-harness ships it, on other data."""
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask

    (file,) = Path(lm_eval.tasks.__file__).parent.rglob(f"{name}.yaml")
    config = yaml.safe_load(file.read_text())
    files = {split: str(path) for split in ("train", "validation", "test")}
    config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}, **changes}
    return ConfigurableTask(config={key: value for key, value in config.items() if key != "tag"})


def answers_of(model, name, task, limit=None):
    """The samples and the results of lm-evaluation-harness."""
    from lm_eval.evaluator import evaluate

    task.set_fewshot_seed(seed=1234)
    found = evaluate(lm=model, task_dict={"tasks": {name: task}, "groups": {}}, limit=limit, bootstrap_iters=0)
    return found["samples"][name], found["results"][name]
