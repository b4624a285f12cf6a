import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quicknet.data.splits import at_random, content_keys, stratified, stratified_by_key

labels = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(lambda x: np.array(x, np.int64))
shares = st.floats(0.01, 0.49)


@given(labels, shares, st.integers(0, 2**32))
def test_stratified_is_disjoint_complete_and_true_to_every_class(labels, share, seed):
    rest, held = stratified(labels, share, np.random.default_rng(seed))
    assert sorted([*rest, *held]) == list(range(len(labels)))
    assert (np.diff(rest) > 0).all() and (np.diff(held) > 0).all()
    for label in np.unique(labels):
        n = int((labels == label).sum())
        assert (labels[held] == label).sum() == int(share * n + 0.5)


def test_stratified_of_cifar_holds_out_500_a_class_and_depends_on_the_seed():
    labels = np.repeat(np.arange(10), 5000)
    _, held = stratified(labels, 0.1, np.random.default_rng(0))
    assert np.bincount(labels[held]).tolist() == [500] * 10
    _, again = stratified(labels, 0.1, np.random.default_rng(0))
    _, other = stratified(labels, 0.1, np.random.default_rng(1))
    assert np.array_equal(held, again) and not np.array_equal(held, other)


@given(labels, shares, st.integers(0, 1000), st.data())
def test_split_by_content_keeps_copies_together(labels, share, seed, data):
    contents = [hashlib.sha256(bytes([int(label), data.draw(st.integers(0, 5))])).hexdigest() for label in labels]
    rest, held = stratified_by_key(labels, share, content_keys(contents, seed))
    assert sorted([*rest, *held]) == list(range(len(labels)))
    assert not {contents[i] for i in rest} & {contents[i] for i in held}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        different = len({contents[i] for i in members})
        assert (labels[rest] == label).any()
        assert (labels[held] == label).any() == (different > 1)


def test_split_by_content_barely_moves_when_a_picture_is_added():
    contents = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(201)]
    labels = np.zeros(201, np.int64)
    before = set(stratified_by_key(labels[:200], 0.1, content_keys(contents[:200], 0))[1].tolist())
    after = set(stratified_by_key(labels, 0.1, content_keys(contents, 0))[1].tolist())
    assert len(before ^ after) <= 2
    other_seed = set(stratified_by_key(labels, 0.1, content_keys(contents, 1))[1].tolist())
    assert len(after & other_seed) < 10


@given(st.integers(0, 500), shares)
def test_at_random_is_disjoint_and_complete(count, share):
    rest, held = at_random(count, share, np.random.default_rng(0))
    assert sorted([*rest, *held]) == list(range(count))
    assert len(held) == int(share * count + 0.5)
