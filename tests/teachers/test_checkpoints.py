"""Every way a checkpoint file can be wrong, as a file on the disk, is refused in one line that names the file."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import TeacherError, audioset_strong_447
from teachers import Teacher, fill, load_teacher, read_checkpoint
from teachers.families._beats import BeatsConfig
from teachers.families._beats_teacher import StrongBeats
from tests.teachers.conftest import MIDS, parity_rules

Save = Callable[[object], Path]


def load(path: Path) -> Teacher:
    teacher = load_teacher("beats", checkpoint=path)
    return teacher


def refusal(path: Path) -> str:
    with pytest.raises(TeacherError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    return message


def refusal_or_none(path: Path) -> str | None:
    try:
        read_checkpoint(path)
    except TeacherError as error:
        return str(error)
    return None


def test_a_whole_checkpoint_loads(small_checkpoint: dict[str, Any], save: Save) -> None:
    teacher = load(save(small_checkpoint))
    assert teacher.vocabulary.mids == MIDS
    assert teacher.vocabulary.names[2] == "/m/of_nobody"
    assert teacher.vocabulary.names[0] == "Speech"
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(tensor, small_checkpoint["model"][name]), name


def test_label_dict_orders_the_classes_whatever_its_own_order(small_checkpoint: dict[str, Any], save: Save) -> None:
    small_checkpoint["label_dict"] = dict(reversed(small_checkpoint["label_dict"].items()))
    assert load(save(small_checkpoint)).vocabulary.mids == MIDS


def test_float16_tensors_become_float32(small_checkpoint: dict[str, Any], save: Save) -> None:
    half = {name: tensor.half() for name, tensor in small_checkpoint["model"].items()}
    model = load(save({**small_checkpoint, "model": half})).model
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, half[name].float())


def test_both_spellings_of_weight_norm(small_checkpoint: dict[str, Any], save: Save) -> None:
    model = small_checkpoint["model"]
    waveform = 0.1 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(0))
    want = load(save(small_checkpoint)).frame_logits(waveform)
    for own, other in (("weight_g", "original0"), ("weight_v", "original1")):
        model[f"encoder.pos_conv.0.parametrizations.weight.{other}"] = model.pop(f"encoder.pos_conv.0.{own}")
    assert torch.equal(load(save(small_checkpoint)).frame_logits(waveform), want)
    model["encoder.pos_conv.0.weight_g"] = model["encoder.pos_conv.0.parametrizations.weight.original0"]
    assert "twice" in refusal(save(small_checkpoint))


def test_the_shared_bias_table(small_checkpoint: dict[str, Any], save: Save) -> None:
    """Listed under layer 0 alone it is every layer's; listed differently elsewhere it is another model."""
    model = small_checkpoint["model"]
    model.pop("encoder.layers.1.self_attn.relative_attention_bias.weight")
    model.pop("encoder.layers.2.self_attn.relative_attention_bias.weight")
    load(save(small_checkpoint))
    name = "encoder.layers.2.self_attn.relative_attention_bias.weight"
    model[name] = torch.zeros(32, 4)
    assert f"{name} differs" in refusal(save(small_checkpoint))
    for value, says in (("no tensor", "is a str"), (torch.zeros(32), "shape"), (torch.full((32, 4), torch.nan), "NaN")):
        model[name] = value
        assert says in refusal(save(small_checkpoint))


def test_not_there_or_not_a_checkpoint(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in refusal(tmp_path / "absent.pt")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.pt")  # opening it would wait for a writer
    assert "is a folder or a device" in refusal(tmp_path / "pipe.pt")
    (tmp_path / "empty.pt").touch()
    assert "0 bytes, not a whole PyTorch checkpoint" in refusal(tmp_path / "empty.pt")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    assert "not a whole PyTorch checkpoint" in refusal(tmp_path / "page.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("clip.txt", "hello")
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "other.zip")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_cut_off(share: float, small_checkpoint: dict[str, Any], save: Save) -> None:
    path = save(small_checkpoint)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cut off" in refusal(path)


def test_one_flipped_bit_in_any_member_is_found(small_checkpoint: dict[str, Any], save: Save) -> None:
    path = save(small_checkpoint)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for member in members[::5]:
        lengths = whole[member.header_offset + 26 : member.header_offset + 30]
        start = (
            member.header_offset + 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        )
        flipped = bytearray(whole)
        flipped[start + member.file_size // 2] ^= 0x10
        path.write_bytes(flipped)
        assert f"{member.filename} does not match its CRC" in refusal(path)


def test_a_flipped_weight_byte_is_refused(small_checkpoint: dict[str, Any], save: Save) -> None:
    weight = small_checkpoint["model"]["encoder.layers.1.fc1.weight"]
    path = save(small_checkpoint)
    whole = bytearray(path.read_bytes())
    at = whole.index(weight.numpy().tobytes()) + 1000
    whole[at] ^= 0x01
    path.write_bytes(whole)
    torch.load(path, weights_only=True)  # the library itself does not notice
    assert "does not match its CRC" in refusal(path)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("pwned").touch, ())


def test_code_is_never_run(
    small_checkpoint: dict[str, Any], save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save({**small_checkpoint, "extra": Payload()})
    assert "never unpickled" in refusal(path)
    path.write_bytes(pickle.dumps(Payload()))
    refusal(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_makes_no_sense(tmp_path: Path) -> None:
    """Under the right CRC, so that nothing but unpickling it tells. It may still be one of another state dict."""
    path, changed = tmp_path / "whole.pt", tmp_path / "changed.pt"
    torch.save({"cfg": {"a": 1}, "model": {"b": torch.zeros(3), "c": torch.ones(2)}}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    ((name, content),) = [member for member in members if member[0].endswith("data.pkl")]
    rng = np.random.default_rng(0)
    refused = 0
    for turn in range(400):
        damaged = bytearray(content[: rng.integers(len(content))] if turn % 4 == 0 else content)
        for place in rng.integers(0, max(1, len(damaged)), 3 if turn % 4 else 0):
            damaged[place] = rng.integers(256)
        with zipfile.ZipFile(changed, "w") as archive:
            for member, data in members:
                archive.writestr(member, bytes(damaged) if member == name else data)
        message = refusal_or_none(changed)
        refused += message is not None
        assert message is None or message.startswith(f"{changed}: ")
        assert "\n" not in (message or "")
    assert refused > 300


def test_a_tensor_without_a_storage(tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    rebuilt = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((K\x01tK\x00(K\x01t(K\x01t\x89}tR."
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", rebuilt), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"odd/{name}", content)
    with pytest.raises(TeacherError, match=r"not a PyTorch checkpoint .*no attribute"):
        read_checkpoint(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_nothing_is_unpacked(method: int, small_checkpoint: dict[str, Any], save: Save) -> None:
    """A few bytes may unpack to any number, and each method has its own ways to fail."""
    path = save(small_checkpoint)
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    assert "compresses nothing" in refusal(path)


def test_a_directory_that_makes_no_sense(small_checkpoint: dict[str, Any], save: Save) -> None:
    """The last bytes of the file: names, places and methods of compression, the size of the directory itself."""
    path = save(small_checkpoint)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole) - 1200, len(whole), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        assert "\n" not in (refusal_or_none(path) or "")


class Counting(nn.Module):
    """What models of the user's own hold beside weights."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("window", torch.hann_window(4), persistent=persistent)


def test_counts_are_filled_and_what_no_file_holds_is_refused(tmp_path: Path) -> None:
    model, path = Counting(persistent=True), tmp_path / "own.pt"
    model.norm.num_batches_tracked.fill_(7)
    filled = fill(lambda: Counting(persistent=True), model.state_dict(), path)
    for name, tensor in filled.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    wrong = model.state_dict() | {"norm.num_batches_tracked": torch.zeros(())}
    with pytest.raises(
        TeacherError, match=r"num_batches_tracked is a torch.float32 tensor, needs a torch.int64 tensor"
    ):
        fill(lambda: Counting(persistent=True), wrong, path)
    without = {name: tensor for name, tensor in model.state_dict().items() if name != "window"}
    with pytest.raises(TeacherError, match=r"the model makes window itself .* make them persistent buffers, or build"):
        fill(lambda: Counting(persistent=False), without, path)


def test_missing_and_unknown_tensors_are_counted_and_named(small_checkpoint: dict[str, Any], save: Save) -> None:
    model = small_checkpoint["model"]
    for layer in range(3):
        model.pop(f"encoder.layers.{layer}.fc1.weight")
    model.pop("encoder.layer_norm.bias")
    message = refusal(save(small_checkpoint))
    assert "4 tensors missing (encoder.layer_norm.bias, encoder.layers.0.fc1.weight" in message
    model["adapter.weight"] = torch.zeros(3)
    assert "1 tensors unknown (adapter.weight)" in refusal(save(small_checkpoint))
    model["two\nlines"] = model[3] = torch.zeros(3)
    assert "3 tensors unknown (adapter.weight, two lines, 3)" in refusal(save(small_checkpoint))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("encoder.layers.0.fc1.weight", torch.zeros(48, 64), "has shape (48, 64), this model needs (64, 48)"),
        ("encoder.layers.0.fc1.weight", torch.zeros(64, 48, dtype=torch.int8), "is a torch.int8 tensor"),
        ("encoder.layers.0.fc1.weight", torch.eye(64, 48).to_sparse(), "is a torch.float32 tensor"),
        ("encoder.layers.0.fc1.weight", "no tensor", "is a str"),
        ("encoder.layers.2.fc2.bias", torch.full((48,), float("nan")), "has 48 NaN or infinite of 48"),
        ("predictor.bias", torch.tensor([0.0, 1, float("inf"), 3, 4, 5, 6]), "has 1 NaN or infinite of 7"),
        ("predictor.bias", torch.full((7,), 1e300, dtype=torch.float64), "has 7 NaN or infinite of 7"),
    ],
)
def test_a_wrong_tensor(name: str, value: object, says: str, small_checkpoint: dict[str, Any], save: Save) -> None:
    small_checkpoint["model"][name] = value
    message = refusal(save(small_checkpoint))
    assert says in message
    assert name in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_norm_first", True),
        ("activation_fn", "relu"),
        ("relative_position_embedding", False),
        ("gru_rel_pos", False),
        ("encoder_layers", 0),
        ("encoder_layers", "3"),
        ("encoder_layers", None),
        ("conv_bias", 1),
        ("predictor_class", 10**9),
    ],
)
def test_a_cfg_that_this_code_cannot_honour(
    name: str, value: object, small_checkpoint: dict[str, Any], save: Save
) -> None:
    small_checkpoint["cfg"][name] = value
    assert f"cfg.{name} is {value!r}" in refusal(save(small_checkpoint))


def test_a_cfg_of_sizes_alone_is_settled_by_its_tensors(small_checkpoint: dict[str, Any], save: Save) -> None:
    for name in ("layer_norm_first", "activation_fn", "relative_position_embedding", "gru_rel_pos"):
        del small_checkpoint["cfg"][name]
    load(save(small_checkpoint))
    small_checkpoint["model"].pop("encoder.layers.0.self_attn.grep_a")
    assert "1 tensors missing (encoder.layers.0.self_attn.grep_a)" in refusal(save(small_checkpoint))


@pytest.mark.parametrize("change", [{"encoder_attention_heads": 5}, {"conv_pos_groups": 7}, {"input_patch_size": 24}])
def test_sizes_that_do_not_fit_together(change: dict[str, int], small_checkpoint: dict[str, Any], save: Save) -> None:
    small_checkpoint["cfg"].update(change)
    assert "inconsistent" in refusal(save(small_checkpoint))


@pytest.mark.parametrize(
    "label_dict",
    [
        list(MIDS),
        dict(enumerate(MIDS[:-1])),
        {index + 1: mid for index, mid in enumerate(MIDS)},
        {**dict(enumerate(MIDS)), 6: MIDS[0]},
        {**dict(enumerate(MIDS)), 6: 6},
    ],
)
def test_a_label_dict_that_does_not_name_every_class(
    label_dict: object, small_checkpoint: dict[str, Any], save: Save
) -> None:
    assert "label_dict" in refusal(save({**small_checkpoint, "label_dict": label_dict}))


def test_a_pre_trained_checkpoint_has_no_classes(small_checkpoint: dict[str, Any], save: Save) -> None:
    del small_checkpoint["label_dict"], small_checkpoint["cfg"]["predictor_class"]
    assert "no label_dict or predictor" in refusal(save(small_checkpoint))


@pytest.mark.parametrize("keep", ["cfg", "model"])
def test_half_of_the_unilm_layout(keep: str, small_checkpoint: dict[str, Any], save: Save) -> None:
    assert "needs dicts cfg and model" in refusal(save({keep: small_checkpoint[keep]}))


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("ATST-F", ["model.atst.mask_embed", "model.atst.pos_embed", "strong_head.weight"]),
        ("fPaSST", ["model.cls_token", "model.dist_token", "model.conv_in_1.weight", "strong_head.weight"]),
        ("M2D", ["model.backbone.cls_token", "model.backbone.patch_embed.proj.weight", "strong_head.weight"]),
        ("ASiT", ["model.cls_token", "model.patch_embed.proj.weight", "strong_head.weight"]),
        ("student", ["model.fmn.features.0.0.weight", "strong_head.weight"]),
        ("no known family", ["layer1.weight", "layer2.weight"]),
    ],
)
def test_another_family(family: str, keys: list[str], save: Save) -> None:
    message = refusal(save({key: torch.zeros(2) for key in keys}))
    assert f"tensors of {family} ({keys[0]}" in message


@pytest.mark.parametrize("name", ["ATST-F", "fpasst", "M2D", "ASIT", "student_fmn10"])
def test_another_family_by_its_released_keys(name: str, shared: Path, save: Save) -> None:
    tensors = json.loads((shared / "parity" / f"{name}.tensors.json").read_text())["tensors"]
    message = refusal(save({key: torch.zeros(1) for key, *_ in tensors}))
    assert name.split("_")[0].lower() in message.split(": ")[1].lower()


def test_not_a_dict(save: Save) -> None:
    assert "holds a list" in refusal(save([torch.zeros(2)]))


def strong_tensors(prefix: str) -> dict[str, Tensor]:
    """Names and shapes of a released strong file, all zero but for its norm: one byte of storage behind each tensor."""
    with torch.device("meta"):
        wanted = StrongBeats(BeatsConfig(), 447, weak_head=True).state_dict()
    return {
        (prefix + name.removeprefix("model.") if name.startswith("model.") else name): torch.zeros(1).expand(
            tensor.shape
        )
        for name, tensor in wanted.items()
    }


@pytest.mark.parametrize("prefix", ["model.model.", "model.beats."])
def test_the_strong_layout_under_both_prefixes(prefix: str, save: Save) -> None:
    teacher = load(save(strong_tensors(prefix)))
    assert teacher.vocabulary == audioset_strong_447()
    assert teacher.provenance["layout"] == "pretrained_sed"


def test_the_strong_layout_without_heads(save: Save) -> None:
    tensors = strong_tensors("model.model.")
    tensors.pop("weak_head.weight")
    assert "1 tensors unknown (weak_head.bias)" in refusal(save(tensors))
    tensors.pop("weak_head.bias")
    teacher = load(save(tensors))
    with pytest.raises(TeacherError, match="no clip-level head"):
        teacher.clip_logits(torch.zeros(1, 160_000))
    tensors.pop("strong_head.weight")
    assert "without strong_head.weight" in refusal(save(tensors))


def test_the_strong_layout_needs_447_classes(save: Save) -> None:
    tensors = strong_tensors("model.model.")
    tensors["strong_head.weight"] = torch.zeros(1).expand(456, 768)
    assert "strong_head.weight has shape (456, 768), this model needs (447, 768)" in refusal(save(tensors))


def test_released_names_are_those_of_the_module() -> None:
    rules = parity_rules("unilm_BEATs_finetuned")["tensors"]
    names = {rule["key"].replace("{}", str(n)) for rule in rules for n in range(rule.get("count", 1))}
    with torch.device("meta"):
        wanted = StrongBeats(BeatsConfig(predictor_class=527), 447, weak_head=False).model.state_dict()
    assert names == set(wanted)
