"""`python -m benchmarks`: every benchmark in turn, the long one last."""

from benchmarks import acoustic, arms, audio_codecs, index, label_codecs, labelling, loader, loader_scale, verify

if __name__ == "__main__":
    for benchmark in (audio_codecs, label_codecs, verify, index, acoustic, labelling, loader, loader_scale, arms):
        print(f"\n== {benchmark.__name__}\n", flush=True)
        benchmark.main()
