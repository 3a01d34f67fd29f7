"""`sed-distill report`: are the labels of a split any good? Figures on stdout and as JSON, and a page with pictures."""

import argparse
import json
import sys
from pathlib import Path
from textwrap import wrap

from pipeline import UsageError, write_atomic
from sed_distill._label_report_clips import disputed_clips, disputes
from sed_distill._label_report_facts import label_facts
from sed_distill._label_report_page import write_page
from sed_distill._label_report_set import Progress, open_labels
from sed_distill._label_report_text import table
from shards import Dataset

WIDTH = 80
_REMEDY = {True: "see to its checkpoint or its class order", False: "correct its class order or its index"}
PAGE_NAME, JSON_NAME = "report.html", "report.json"


def run_report(arguments: argparse.Namespace, progress: Progress) -> int:
    """Returns the exit code: 1 where hard labels say that the classes of a set, or its clips, cannot be right.

    Raises UsageError for what is not there.
    """
    out: Path = arguments.out
    if arguments.clips < 0:
        raise UsageError(f"--clips is {arguments.clips}; needs 0 or more")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from error
    dataset, split = Dataset.open(arguments.dataset), arguments.split
    opened = [open_labels(dataset, split, name) for name in dict.fromkeys(arguments.labels)]
    facts = [label_facts(dataset, split, labels, progress) for labels in opened]
    chosen = disputes(facts, arguments.clips)
    told = {
        "dataset": str(dataset.root),
        "split": split,
        "label_sets": [of_set.to_json() for of_set in facts],
        "disputes": [vars(dispute) for dispute in chosen],
    }
    print("\n".join(line for row in table(split, facts) for line in _folded(_printable(row))), flush=True)
    write_atomic(out / JSON_NAME, json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    wrong = [of_set for of_set in facts if of_set.problem]
    for of_set in wrong:
        print(
            f"error: label set {of_set.labels.name}: the check of class order refuses it, as told above; do not train "
            f"on it; {_REMEDY[of_set.own]}, and make it again",
            file=sys.stderr,
        )
    # Last: it reads audio, and what is wrong with that should not hide what reading all the labels has found.
    clips = disputed_clips(dataset, split, opened, list(dict.fromkeys(dispute.key for dispute in chosen)))
    write_page(out / PAGE_NAME, str(dataset.root), split, facts, chosen, clips)
    print(f"report: {_printable(str(out / PAGE_NAME))}", file=sys.stderr)
    return 1 if wrong else 0


def _folded(line: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return wrap(line, WIDTH, subsequent_indent=indent, drop_whitespace=True)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
