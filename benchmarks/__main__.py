"""`python -m benchmarks`: every benchmark in turn, the long one last."""

from benchmarks import (
    acoustic,
    arms,
    audio_codecs,
    index,
    label_codecs,
    labelling,
    loader,
    loader_scale,
    teacher_geometry,
    teachers,
    verify,
)

ALL = (
    audio_codecs,
    label_codecs,
    verify,
    index,
    acoustic,
    teacher_geometry,
    teachers,
    labelling,
    loader,
    loader_scale,
    arms,
)

if __name__ == "__main__":
    for benchmark in ALL:
        print(f"\n== {benchmark.__name__}\n", flush=True)
        benchmark.main()
