"""A write that is disturbed at any point leaves what was committed, nothing half-written, and can be done again.

`make campaign` makes the slices whole: every line of a write, every size of a full disk, many pairs of writers.
"""

import pytest

from tests.shards import crashes
from tests.shards.interrupted import alone


@pytest.mark.campaign
def test_killed_at_every_point_of_a_write(campaign):
    complaints = alone(crashes.killed_at_every_point, 1 if campaign else 17, 5)
    assert complaints == []


@pytest.mark.campaign
def test_killed_at_random_moments(campaign):
    complaints = alone(crashes.killed_at_random_times, campaign // 20 or 15, 7)
    assert complaints == []


@pytest.mark.campaign
def test_no_space_for_any_file(campaign):
    complaints = alone(crashes.full_at_every_call, 1 if campaign else 2)
    assert complaints == []


@pytest.mark.campaign
def test_no_space_for_any_byte_and_killed_at_any(campaign):
    complaints = alone(crashes.at_every_size, 29 if campaign else 1900)
    assert complaints == []


def test_a_read_only_folder():
    complaints = alone(crashes.without_rights)
    assert complaints == []


@pytest.mark.campaign
def test_two_writers_of_one_shard(campaign):
    complaints = alone(crashes.two_writers, campaign // 10 or 60, 8)
    assert complaints == []
