"""The ontology's table against the published file, and its closures against closures made another way."""

import json
from pathlib import Path

from pipeline import ancestors, audioset_mids, audioset_strong_456, audioset_weak_527, descendants, ontology_mids

DOG, GROWLING, BARK, CAT, ANIMAL = "/m/0bt9lr", "/m/0ghcn6", "/m/05tny_", "/m/01yrx", "/m/0jbk"


def test_the_table_is_the_published_file(shared: Path) -> None:
    entries = json.loads((shared / "data" / "ontology.json").read_text(encoding="utf-8"))
    children = {entry["id"]: set(entry["child_ids"]) for entry in entries}
    assert ontology_mids() == children.keys()
    # Published order of depth decides nothing: every class is reached by repeating until nothing is new.
    closed = {mid: {mid} for mid in children}
    while True:
        wider = {mid: kinds.union(*(children[kind] for kind in kinds)) for mid, kinds in closed.items()}
        if wider == closed:
            break
        closed = wider
    assert {mid: descendants(mid) for mid in children} == closed
    assert all(ancestors(mid) == {other for other in children if mid in closed[other]} for mid in children)


def test_counts() -> None:
    assert len(ontology_mids()) == 632
    assert set(audioset_weak_527().mids) <= ontology_mids()
    assert len(set(audioset_strong_456().mids) - ontology_mids()) == 32
    tops = [mid for mid in ontology_mids() if len(ancestors(mid)) == 1]
    assert len(tops) == 7
    assert frozenset().union(*map(descendants, tops)) == ontology_mids()


def test_a_class_of_two_parents_is_a_kind_of_both() -> None:
    assert GROWLING in descendants(DOG) & descendants(CAT)
    assert {DOG, CAT, ANIMAL, GROWLING} <= ancestors(GROWLING)
    assert DOG not in descendants(BARK)
    assert descendants(BARK) == {BARK}


def test_what_the_ontology_lacks_stands_alone() -> None:
    for mid in ["mine/bark", *sorted(audioset_mids() - ontology_mids())]:
        assert descendants(mid) == ancestors(mid) == {mid}
