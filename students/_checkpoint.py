"""A trained student as one file: its weights, what builds the model again, its classes and how it was trained."""

import pickle
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline import FormatError, Vocabulary, atomic_path
from students._student import StudentModel
from students._train import TrainedStudent

_FORMAT = "sed-distill student"
_VERSION = 0
_FIELDS = {"width", "vocabulary", "config", "state"}


def save_student(path: Path, trained: TrainedStudent) -> None:
    """Write `path` at once or not at all."""
    student = trained.student
    # A path would leave its temporary name in the file; equal students should be equal bytes.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.save(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "width": student.width,
                "vocabulary": trained.vocabulary.to_json(),
                "config": asdict(trained.config),
                "state": {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()},
            },
            file,
        )


def load_student(path: Path, *, device: str = "cpu") -> tuple[StudentModel, Vocabulary]:
    """The student in eval mode and its classes. Nothing in the file is executed. Raises FormatError on another file."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise FormatError(f"{path}: cannot be read as a student checkpoint ({reason}); train again") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise FormatError(f"{path}: not a student checkpoint of this project; pass one that train wrote")
    if content.get("version") != _VERSION or not content.keys() >= _FIELDS:
        raise FormatError(f"{path}: is of another version of student checkpoints than {_VERSION}; train again")
    vocabulary = Vocabulary.from_json(content["vocabulary"], f"{path}: vocabulary")
    student = StudentModel(width=content["width"], vocabulary_size=len(vocabulary)).to(device)
    try:
        student.load_state_dict(content["state"])
    except RuntimeError as error:
        needs = f"a student of width {content['width']} for {len(vocabulary)} classes"
        raise FormatError(
            f"{path}: its weights do not fit {needs}; the file was edited or damaged, train again"
        ) from error
    return student.eval().to(memory_format=torch.channels_last), vocabulary
