"""Why a clip of an audio shard has no label: a closed list, as rejections of audio have theirs."""

from typing import Literal, get_args

LabelFailure = Literal[
    "not_finite",  # NaN, infinity or a value float16 cannot hold
    "wrong_shape",  # the teacher gave another shape than its TargetSpec
    "unreadable_audio",  # the stored audio did not pass its checksum or did not decode
    "absent",  # where the labels come from there is none for this clip
    "audio_differs",  # the published label was made from another recording than is stored under its key
    "audio_shifted",  # the published label was made from the same recording at another time
    "out_of_range",  # probabilities outside [0, 1]
]
LABEL_FAILURES: tuple[str, ...] = get_args(LabelFailure)


class LabelRefused(ValueError):
    """Logits that cannot be stored. `LabelShardWriter.fail(key, refused.reason, str(refused))` records them."""

    def __init__(self, reason: LabelFailure, detail: str) -> None:
        super().__init__(detail)
        self.reason: LabelFailure = reason
