"""The benchmark of the loader: that it times and compares what it says, on few clips."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import loader
from benchmarks.loader_peers._clips import BATCH_SIZE, Clips, decoded_flac, decoded_npy
from benchmarks.loader_peers._limit import Limit
from benchmarks.loader_peers._measure import checked, measured, tree_cpu_s
from benchmarks.loader_peers._ours import FAST, FAST_COMPACT, FLAC, Ours

CLIPS = Clips(80)
BURN = "import time\nwhile time.process_time() < 0.4: pass"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("loader")
    for ours in (FLAC, FAST):
        ours.write(root / ours.audio, CLIPS)
    return {ours.audio: root / ours.audio for ours in (FLAC, FAST)}


def test_no_two_clips_are_equal_and_the_peers_decode_what_was_made() -> None:
    numbers = range(20)
    assert len({CLIPS.flac(number) for number in numbers}) == len({CLIPS.npy(number) for number in numbers}) == 20
    assert [CLIPS.number(CLIPS.key(number)) for number in numbers] == list(numbers)
    np.testing.assert_array_equal(decoded_flac(CLIPS.flac(7)).numpy() * 32_768, CLIPS.pcm(7))
    torch.testing.assert_close(decoded_npy(CLIPS.npy(7)), torch.from_numpy(CLIPS.logits(7)).float(), rtol=0, atol=0)


@pytest.mark.parametrize("ours", [FLAC, FAST, FAST_COMPACT], ids=["flac", "fast", "compact"])
def test_our_loaders_deliver_the_clips_of_their_keys(ours: Ours, folders: dict[str, Path]) -> None:
    assert not ours.missing
    got = checked(ours, folders[ours.audio], 2, CLIPS)
    assert got["clips"] == CLIPS.count
    assert got["delivered"] >= 3 * CLIPS.count


@pytest.mark.parametrize("what", ["waveform", "label"])
def test_the_check_finds_a_clip_under_anothers_key(what: str, folders: dict[str, Path]) -> None:
    class Swapping(Ours):
        def opened(self, batch: tuple[torch.Tensor, torch.Tensor, list[str]]) -> object:
            waveform, labels, keys = batch
            if what == "waveform":
                return waveform.roll(1, 0), labels, keys
            return waveform, labels.roll(1, 0), keys

    with pytest.raises(ValueError, match=f"its {what} is another's"):
        checked(Swapping("flac", "npy"), folders["flac"], 2, CLIPS)


def test_webdataset_delivers_the_clips_of_its_keys(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    peer = loader.ROWS["webdataset"].loader
    peer.write(tmp_path / "tars", CLIPS)
    assert checked(peer, tmp_path / "tars", 1, CLIPS)["clips"] > CLIPS.count / 2


@pytest.mark.parametrize("measurable", [FLAC, Limit(FLAC), Limit(FAST_COMPACT)], ids=["ours", "limit", "compact"])
def test_as_many_clips_are_timed_as_were_asked_for(measurable: Ours | Limit, folders: dict[str, Path]) -> None:
    ours = measurable.ours if isinstance(measurable, Limit) else measurable
    got = measured(measurable, folders[ours.audio], 2, 3)
    assert got["clips"] == 3 * BATCH_SIZE
    assert got["cpu_s"] > 0


def test_cpu_time_of_other_processes_counts_while_they_live_and_afterwards() -> None:
    before_s, children = tree_cpu_s(), resource.getrusage(resource.RUSAGE_CHILDREN)
    code = f"{BURN}\nprint('burnt', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"burnt\n"
        living_s = tree_cpu_s() - before_s
        child.communicate(b"\n")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = ended.ru_utime + ended.ru_stime - children.ru_utime - children.ru_stime
    assert living_s >= 0.4
    assert tree_cpu_s() - before_s >= spent_s - 0.05


def test_ratios_are_to_the_fastest_peer_and_to_that_with_least_cpu_time() -> None:
    runs = {
        "hdf5": [loader.Figures(500, 4.0), loader.Figures(400, 5.0), loader.Figures(300, 6.0)],
        "webdataset": [loader.Figures(250, 3.0), loader.Figures(250, 2.0), loader.Figures(250, 2.0)],
        "flac": [loader.Figures(1_000, 1.0), loader.Figures(500, 0.5), loader.Figures(2_000, 0.25)],
        "limit-flac": [loader.Figures(2_000, 0.5), loader.Figures(2_000, 0.4), loader.Figures(2_000, 0.25)],
    }
    limits = loader.limits_table(runs).splitlines()
    assert limits[2] == "| FLAC and float16, as float32 | 2,000 | 0.400 | 50% | 80% |"
    ours = loader.table([loader.ROWS["flac"]], runs).splitlines()[2]
    assert ours.endswith("| 1,000 | 0.500 | - | - |")
    pytest.importorskip("h5py")
    pytest.importorskip("webdataset")
    beside_peers = loader.table([loader.ROWS[name] for name in ("hdf5", "webdataset", "flac")], runs)
    assert beside_peers.splitlines()[4].endswith("| 1,000 | 0.500 | 2.00 | 4.00 |")


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = loader.Row("absent", "no loader", "_absent", "absent", "no-such-distribution")
    monkeypatch.setattr(loader, "PEERS", (absent,))
    monkeypatch.setattr(loader, "ROWS", {"absent": absent})
    loader.main(["--data", str(tmp_path), "--only", "absent", "--check"])
    assert capsys.readouterr().out == "without no loader: no-such-distribution is not installed\n"
