"""Invented items with the fields that the hub's datasets have, and what each one's right answer is."""

import json
from pathlib import Path

PLACES = ["Accra", "Bergen", "Cusco", "Dakar", "Esfahan", "Faro", "Graz", "Hobart", "Izmir", "Jaipur"]


def choices(number):
    return [f"by boat {number}", f"on foot {number}", f"in a cart {number}", f"not at all {number}"]


def lettered(field):
    def make(number, place):
        listed = {"text": choices(number), "label": list("ABCD")}
        return {
            field: f"How did they leave {place} in year {number}?",
            "choices": listed,
            "answerKey": "DACB"[number % 4],
        }

    return make


def hellaswag(number, place):
    return {
        "activity_label": "Packing a bag",
        "ctx_a": f"Somebody from {place} opens a bag. [header] Year {number}",
        "ctx_b": "she",
        "endings": [f"[step] {choice} [title] again." for choice in choices(number)],
        "label": str(number % 4),
    }


def piqa(number, place):
    first, second, *_ = choices(number)
    return {"goal": f"To leave {place} in year {number},", "sol1": first, "sol2": second, "label": number % 2}


def copa(number, place):
    return {
        "premise": f"The road to {place} was closed in year {number}.",
        "choice1": f"Snow fell {number} times.",
        "choice2": f"The sun shone {number} times.",
        "question": ["cause", "effect"][number % 2],
        "label": number % 2,
    }


def mmlu(number, place):
    subject = ["high_school_biology", "high school biology", "astronomy"][number % 3]
    return {
        "question": f"What grows in {place} in year {number}?",
        "subject": subject,
        "choices": choices(number),
        "answer": number % 4,
    }


def classified(text, label, classes):
    return lambda number, place: {text: f"no {place} is like {place} number {number} .", label: number % classes}


def cb(number, place):
    return {
        "premise": f"He said {place} has {number} gates. It has.",
        "hypothesis": f"{place} has {number} gates",
        "label": number % 3,
    }


def boolq(number, place):
    passage = f"{place} -- {place} has {number} gates. Question: how many?"
    return {"passage": passage, "question": f"does {place} have {number} gates", "label": number % 2}


def squad(number, place):
    return {
        "title": f"History of {place}",
        "context": f"{place} was founded by Ada the {number}th.\nQ: is no question.",
        "question": f"Who founded {place}, {number}?",
        "answers": {"text": [f"Ada the {number}th", "the Ada"], "answer_start": [0, 0]},
    }


def squad_v2(number, place):
    unanswered = {"answers": {"text": [], "answer_start": []}} if number % 2 else {}
    return {**squad(number, place), **unanswered}


ROWS = {
    "hellaswag": hellaswag,
    "arc_easy": lettered("question"),
    "arc_challenge": lettered("question"),
    "piqa": piqa,
    "openbookqa": lettered("question_stem"),
    "copa": copa,
    "commonsense_qa": lettered("question"),
    "mmlu": mmlu,
    "sst2": classified("sentence", "label", 2),
    "sst5": classified("text", "label", 5),
    "mr": classified("text", "label", 2),
    "ag_news": classified("text", "label", 4),
    "trec": classified("text", "coarse_label", 6),
    "cb": cb,
    "boolq": boolq,
    "squad_v1": squad,
    "squad_v2": squad_v2,
}

WORDS = {
    "sst2": ["negative", "positive"],
    "sst5": ["terrible", "negative", "neutral", "positive", "great"],
    "mr": ["negative", "positive"],
    "ag_news": ["World", "Sports", "Business", "Technology"],
    "trec": ["Expression", "Entity", "Description", "Person", "Location", "Number"],
    "cb": ["true", "false", "neither"],
    "boolq": ["False", "True"],
}


def right_answer(task, doc):
    """The text of a row's right answer, read from its label without the task file."""
    if task == "embedded_last_word":
        return doc["word"]
    if task == "embedded_continuation":
        return doc["continuations"][doc["gold"]]
    if task in WORDS:
        return WORDS[task][doc.get("label", doc.get("coarse_label"))]
    if task == "hellaswag":
        return doc["endings"][int(doc["label"])].replace("[step] ", "").replace(" [title]", ". ").replace("  ", " ")
    if task == "piqa":
        return [doc["sol1"], doc["sol2"]][doc["label"]]
    if task == "copa":
        right = [doc["choice1"], doc["choice2"]][doc["label"]]
        return right[0].lower() + right[1:]
    if task == "mmlu":
        return doc["choices"][doc["answer"]]
    if task.startswith("squad"):
        return (doc["answers"]["text"] or ["Not in background."])[0]
    return doc["choices"]["text"]["ABCDE".index(doc["answerKey"])]


def rows(task, first, last):
    """Rows `first` to `last - 1`, of which no two are the same."""
    return [ROWS[task](number, PLACES[number % len(PLACES)]) for number in range(first, last)]


def write_rows(folder, task, **by_split):
    """`folder/<task>/<split>.jsonl`."""
    path = Path(folder) / task
    path.mkdir(parents=True, exist_ok=True)
    for split, some in by_split.items():
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return Path(folder)
