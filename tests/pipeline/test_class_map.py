"""Class maps: one-to-one ones against `projection`, many-to-one ones against plain loops in double precision."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    ClassMap,
    MapRule,
    UsageError,
    Vocabulary,
    ancestors,
    audioset_strong_447,
    audioset_weak_527,
    class_map,
    class_name,
    descendants,
    desed_10,
    dog_baby_gunshot,
    project_many,
    projection,
)

DOG, BARK, GROWLING, CAT, HISS = "/m/0bt9lr", "/m/05tny_", "/m/0ghcn6", "/m/01yrx", "/m/07rjwbb"
LETTERS = [f"id/{letter}" for letter in "abcdefgh"]


def vocabulary(*mids: str) -> Vocabulary:
    return Vocabulary(mids, mids)


def projected(values: np.ndarray, classes: ClassMap, source: Vocabulary) -> np.ndarray:
    """Over memory full of NaN: what is not written shows."""
    out = np.full((len(classes), *values.shape[1:]), np.nan, dtype=np.float32)
    project_many(values, classes.columns(source), out)
    return out


VOCABULARIES = st.lists(st.sampled_from(LETTERS), min_size=1, unique=True).map(lambda mids: vocabulary(*mids))


@given(source=VOCABULARIES, target=VOCABULARIES, rule=st.sampled_from(["max", "noisy_or"]))
@settings(max_examples=60)
def test_a_one_to_one_map_is_projection(source: Vocabulary, target: Vocabulary, rule: MapRule) -> None:
    one = ClassMap.one_to_one(target)
    classes = ClassMap(one.vocabulary, one.members, rule)
    wanted = projection(source, target)
    single = classes.columns(source).single()
    assert single is not None
    assert single.tolist() == wanted.tolist()
    assert classes.columns(source).known.tolist() == (wanted >= 0).tolist()
    values = np.random.default_rng(len(source)).random((len(source), 3), dtype=np.float32)
    by_projection = np.where(wanted[:, None] >= 0, values[wanted], 0)
    assert projected(values, classes, source).tobytes() == by_projection.astype(np.float32).tobytes()


@given(
    source=VOCABULARIES,
    members=st.lists(st.lists(st.sampled_from(LETTERS), min_size=1, unique=True), min_size=1, max_size=5),
    rule=st.sampled_from(["max", "noisy_or"]),
    data=st.data(),
)
@settings(max_examples=150)
def test_many_to_one_against_loops(
    source: Vocabulary, members: list[list[str]], rule: MapRule, data: st.DataObject
) -> None:
    names = vocabulary(*(f"class {number}" for number in range(len(members))))
    classes = ClassMap(names, tuple(map(tuple, members)), rule)
    probability = st.one_of(st.sampled_from([0.0, 1e-7, 1.0]), st.floats(0, 1, width=32))
    rows = data.draw(st.lists(st.tuples(probability, probability), min_size=len(source), max_size=len(source)))
    values = np.array(rows, dtype=np.float32)
    got = projected(values, classes, source)
    assert got.min() >= 0
    assert got.max() <= 1
    for number, mids in enumerate(members):
        there = [values[source.mids.index(mid)].astype(np.float64) for mid in mids if mid in source.mids]
        for time in range(2):
            ps = [row[time] for row in there]
            wanted = max(ps, default=0.0) if rule == "max" else 1 - np.prod([1 - p for p in ps])
            assert got[number, time] == pytest.approx(wanted, rel=1e-6, abs=1e-15)
    # Clip labels have no axis but that of classes.
    assert projected(values[:, 0], classes, source).tobytes() == got[:, 0].tobytes()


def test_noisy_or_keeps_small_probabilities() -> None:
    classes = ClassMap(vocabulary("both"), (("id/a", "id/b"),), "noisy_or")
    values = np.array([[1e-7], [2e-7]], dtype=np.float32)
    assert projected(values, classes, vocabulary("id/a", "id/b"))[0, 0] == pytest.approx(3e-7, rel=1e-6)


def test_a_map_over_the_ontology_has_all_kinds_of_a_class() -> None:
    classes = class_map({"dogs": (DOG,), CAT: (), "pets": (DOG, CAT)}, without={CAT: (HISS, GROWLING)})
    assert classes.vocabulary == Vocabulary(("dogs", CAT, "pets"), ("dogs", "Cat", "pets"))
    dogs, cats, pets = map(set, classes.members)
    assert dogs == descendants(DOG) | {"dogs"}
    assert {BARK, GROWLING} <= dogs
    assert cats == descendants(CAT) - {HISS, GROWLING}
    assert pets == descendants(DOG) | descendants(CAT) | {"pets"}
    assert classes.classes_of()[GROWLING] == (0, 2)
    assert classes.classes_of()[HISS] == (2,)


def test_what_people_could_have_said() -> None:
    classes = ClassMap(vocabulary("a", "b", "c"), (("id/a", "id/b"), ("id/c",), ("c", "id/a")))
    assert classes.known({"id/b", "id/c"}).tolist() == [True, True, False]
    assert classes.known(()).tolist() == [False] * 3


@pytest.mark.parametrize("classes", [desed_10(), dog_baby_gunshot()], ids=["desed_10", "dog_baby_gunshot"])
@pytest.mark.parametrize("labels", [audioset_weak_527(), audioset_strong_447()], ids=["weak", "strong"])
def test_every_preset_class_is_in_both_lists_and_no_two_share_a_label(classes: ClassMap, labels: Vocabulary) -> None:
    columns = classes.columns(labels)
    assert columns.known.all()
    assert len(set(columns.columns.tolist())) == len(columns.columns)


def test_presets_by_name() -> None:
    desed = desed_10()
    assert desed.vocabulary.names == desed.vocabulary.mids
    members = dict(zip(desed.vocabulary.names, desed.members, strict=True))
    named = {name: {class_name(mid) for mid in mids} - {name} for name, mids in members.items()}
    assert named["Dishes"] == {"Dishes, pots, and pans", "Cutlery, silverware"}
    assert {"Meow", "Purr"} <= named["Cat"]
    assert {"Bark", "Growling", "Pant (dog)"} <= named["Dog"]
    assert not any(
        {"Hiss", "Growling", "Waterfall", "Whistle", "Foghorn"} & named[name] for name in named if name != "Dog"
    )
    assert dog_baby_gunshot().vocabulary.names == ("Dog", "Baby cry, infant cry", "Gunshot, gunfire")
    assert all(
        own in ancestors(mid)
        for own, mids in zip(dog_baby_gunshot().vocabulary.mids, dog_baby_gunshot().members, strict=True)
        for mid in mids
    )


def test_hash_tells_maps_apart_and_not_orders_of_members() -> None:
    base = ClassMap(vocabulary("a", "b"), (("id/a", "id/b"), ("id/c",)))
    others = [
        ClassMap(vocabulary("b", "a"), base.members),
        ClassMap(base.vocabulary, (("id/a",), ("id/c",))),
        ClassMap(base.vocabulary, base.members, "noisy_or"),
        ClassMap(base.vocabulary, (("id/a",), ("id/b", "id/c"))),
    ]
    assert len({base.sha256, *(other.sha256 for other in others)}) == 5
    assert ClassMap(base.vocabulary, (("id/b", "id/a"), ("id/c",))).sha256 == base.sha256


def test_refusals() -> None:
    good = vocabulary("a")
    for members, rule, wanted in [
        ((), "max", "members of 0"),
        (((),), "max", "at least one"),
        ((("x", "x"),), "max", "different"),
        (("xy",), "max", "tuple"),
        ((("x",),), "sum", "max, noisy_or"),
    ]:
        with pytest.raises(UsageError, match=wanted):
            ClassMap(good, members, rule)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="/m/0bt9lx"):
        class_map({"dog": ("/m/0bt9lx",)})
    with pytest.raises(UsageError, match=re.escape("'/m/0bt9lr'")):
        class_map({"dog": DOG})
    with pytest.raises(UsageError, match="cat"):
        class_map({"dog": (DOG,)}, without={"cat": (CAT,)})


def test_columns_are_ascending_and_read_only() -> None:
    columns = desed_10().columns(audioset_strong_447())
    for first, last in itertools.pairwise(columns.bounds.tolist()):
        assert columns.columns[first:last].tolist() == sorted(columns.columns[first:last].tolist())
    with pytest.raises(ValueError, match="read-only"):
        columns.columns[0] = 0
    assert columns.single() is None
