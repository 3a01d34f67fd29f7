"""The arguments that say what labels: teachers, how they are averaged, what they hear. Parsed by `LabellerChoice`."""

import argparse


def add_labeller_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--teacher", action="append", required=True, metavar="TEACHER",
        help="FAMILY=CHECKPOINT (beats=/models/B.pt, =https://..., =strong_1: see 'sed-distill teachers'), "
        "module:factory of your own, or demo; several: their ensemble",
    )  # fmt: skip
    parser.add_argument(
        "--average", choices=("logit", "probability"), default="logit", metavar="KIND",
        help="of an ensemble: logit (default) or probability",
    )  # fmt: skip
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="of each --teacher (default: 1)")
    parser.add_argument(
        "--mixed-protocols", action="store_true",
        help="average teachers of clips and of frames, classes over those who have them",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32", metavar="TYPE",
        help="float32 (default), float16 or bfloat16",
    )  # fmt: skip
    parser.add_argument(
        "--context-ms", type=int, metavar="MS", help="cut clips into chunks of this length, each heard alone"
    )
    parser.add_argument(
        "--target", choices=("frame", "clip"), default="frame", metavar="WHAT",
        help="frame: each 40 ms (default); clip: clips as a whole",
    )  # fmt: skip
