"""A report in words: the table for a terminal, and what there is to say of a label set."""

from collections.abc import Mapping, Sequence
from typing import Any

from sed_distill._label_report_facts import LabelFacts

_WORST = 5
_NAME = 24
_MAKER = 20  # what 80 columns leave


def table(split: str, facts: Sequence[LabelFacts]) -> list[str]:
    """Lines for a terminal: a row for each set, then what there is to say of each."""
    lines = [f"{split:{_NAME}} labelled         AUC    mAP  PSDS1  made by"]
    for of_set in facts:
        told, coverage, measured = of_set.to_json(), of_set.labels.coverage, measured_of(of_set)
        cells = "".join(f"{'-' if figure is None else f'{figure:.3f}':>7}" for figure in measured)
        share = f"{coverage.labelled:,} {coverage.labelled / coverage.clips:6.1%}"
        lines.append(f"{of_set.labels.name[: _NAME - 3]:{_NAME - 3}} {share:>15}{cells}  {_cut(told['made_by'][0])}")
    for of_set in facts:
        made_by = "; ".join(of_set.to_json()["made_by"])
        whole = [] if made_by == _cut(made_by) else [f"made by {made_by}"]
        lines += ["", of_set.labels.name, *(f"  {line}" for line in (*whole, *remarks(of_set)))]
        worst = of_set.worst(_WORST)
        if worst:
            lines.append(f"  {'stand out least':32}   clips    AUC     AP    mean  highest")
        for row in worst:
            figures = f"{row['auc']:.3f}  {row['ap']:.3f}  {row['mean']:.4f}    {row['highest']:.3f}"
            lines.append(f"    {row['name'][:30]:30} {row['clips']:7,}  {figures}")
    return lines


def measured_of(of_set: LabelFacts) -> list[float | None]:
    """AUC and mAP, against weak labels where there are any, and PSDS1."""
    told = of_set.to_json()
    people = told["weak"] or told["strong"]
    return [people and people["auc"], people and people["map"], told["psds1"] and told["psds1"]["mean"]]


def remarks(of_set: LabelFacts) -> list[str]:
    """What there is to say of a label set, in sentences; what needs attention begins with `!`."""
    told, coverage, labels = of_set.to_json(), of_set.labels.coverage, of_set.labels
    lines = []
    if of_set.problem:
        lines.append(f"! {of_set.problem}")
    elif of_set.unlabelled:
        lines.append("nobody labelled this split: nothing to compare with; sed-distill peek shows clips")
    elif of_set.agreement is None or not of_set.agreement.enough:
        lines.append("class order not checked: people gave these clips too few of its classes")
    else:
        found = of_set.agreement
        lines.append(
            f"class order fits: the check of class order finds an AUC of {found.auc:.2f} over {found.clips:,} clips, "
            f"{found.positives:,} labels"
        )
    if coverage.failed:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in coverage.reasons.items())
        lines.append(f"clips that failed: {coverage.failed:,} ({reasons})")
    if coverage.missing:
        lines.append(
            f"! {coverage.missing:,} stored clips without a label; run the command that labelled the others again"
        )
    if coverage.other_audio:
        lines.append(f"! {coverage.other_audio:,} labels are of other audio than is stored; they are left out here")
    if coverage.elsewhere:
        lines.append(f"{coverage.elsewhere:,} labels of clips that are not stored here")
    if len(labels.provenances) > 1:
        lines.append("! shards were not all labelled in the same way; run sed-distill verify")
    said = told["probability"]
    lines.append(
        f"probabilities: mean {said['mean']:.4f}, highest {said['highest']:.3f}; {said['classes_from_half']:,} of "
        f"{told['classes']:,} classes reach 0.5 somewhere"
    )
    for kind, what in (("weak", "weak labels"), ("strong", "clips' strong labels")):
        if (people := told[kind]) is not None:
            lines.append(
                f"against {what}: AUC {people['auc']:.3f}, mAP {people['map']:.3f}; means of {people['classes']:,} "
                f"classes, {people['labels']:,} labels of {people['clips']:,} clips"
            )
    if of_set.psds is not None:
        lines.append(_psds_text(told["psds1"], sample_text(of_set.in_sample)))
    if told["weak"] or told["strong"]:
        reason = _SAMPLE_REASON[of_set.in_sample] if of_set.of_audioset else _NOT_AUDIOSET
        lines.append(f"{sample_text(of_set.in_sample)}: {reason}")
    return lines


def sample_text(in_sample: bool | None) -> str:
    return {True: "in-sample", False: "held out", None: "unknown whether in-sample"}[in_sample]


_SAMPLE_REASON = {
    True: "the teacher was trained on labels of this split; it does worse on clips that are new to it",
    False: "the teacher was not trained on labels of this split, though its checkpoint may have been chosen by them",
    None: "nobody wrote down what the teacher was trained on",
}
_NOT_AUDIOSET = (
    "what is known of teachers is about AudioSet's splits, and this dataset is not known to be one of them (keys: path)"
)


def _cut(made_by: str) -> str:
    return made_by if len(made_by) <= _MAKER else f"{made_by[: _MAKER - 2].rstrip(' ,:')}.."


def _psds_text(psds: Mapping[str, Any], sample: str) -> str:
    sampled = "" if psds["clips"] == psds["of_clips"] else f", drawn out of {psds['of_clips']:,}"
    return (
        f"PSDS1 {psds['mean']:.3f} ({sample}) after a median filter of {psds['median_frames']} frames, where perfect "
        f"labels reach {psds['ceiling']:.3f}; mean of {psds['classes']:,} classes, {psds['events']:,} events of "
        f"{psds['clips']:,} clips{sampled}"
    )
