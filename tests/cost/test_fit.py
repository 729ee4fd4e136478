"""Predicting chains that are not timed from those that are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxlr.cost.fit import kin, predict, stage_macs
from onnxlr.schemes.base import LayerShape
from onnxlr.schemes.registry import all_schemes
from onnxlr_passes.geometry import Geometry

SHAPE = LayerShape(128, 128, Geometry((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))))
SIZE = (14, 14)


def chains_of(scheme, shape=SHAPE, block=16):
    return [scheme.template(shape, ranks) for ranks in scheme.candidates(shape, block)]


@pytest.mark.parametrize("scheme", all_schemes(), ids=lambda scheme: scheme.name)
def test_every_chain_is_in_one_place(scheme):
    chains = chains_of(scheme)
    groups = kin(chains, SIZE, 16, extra=1)
    indices = [index for group in groups for index in (*group.sample, *group.held, *group.rest)]
    assert sorted(indices) == list(range(len(chains)))
    for group in groups:
        assert group.sample
        assert bool(group.held) == bool(group.rest)


@pytest.mark.parametrize("scheme", all_schemes(), ids=lambda scheme: scheme.name)
def test_kin_have_stages_of_one_build(scheme):
    chains = chains_of(scheme)
    for group in kin(chains, SIZE, 16, extra=1):
        members = [chains[index] for index in (*group.sample, *group.held, *group.rest)]
        assert len({tuple(stage.geometry.kernel for stage in chain.stages) for chain in members}) == 1
        partial = {tuple(s.out_channels if s.out_channels % 16 else 0 for s in chain.stages) for chain in members}
        assert len(partial) == 1


def test_a_sample_spans_the_ranks():
    scheme = next(scheme for scheme in all_schemes() if scheme.name == "tucker2")
    ranks = scheme.candidates(SHAPE, 16)
    groups = kin(chains_of(scheme), SIZE, 16, extra=1)
    largest = max(groups, key=lambda group: len(group.rest))
    assert len(largest.sample) == 5  # a constant, three stages, one more
    sampled = [ranks[index] for index in largest.sample]
    full = [ranks[index] for index in (*largest.sample, *largest.held, *largest.rest)]
    assert {min(full), max(full)} <= set(sampled)


@given(
    st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    st.floats(0.01, 1),
)
def test_times_linear_in_the_macs_are_predicted_exactly(each, constant):
    scheme = next(scheme for scheme in all_schemes() if scheme.name == "tucker2")
    macs = np.array([stage_macs(chain, SIZE) for chain in chains_of(scheme)]) / 1e6
    seconds = constant + macs @ np.array(each)
    known = np.array([0, 5, 17, 40, 80, len(macs) - 1])
    np.testing.assert_allclose(predict(macs[known], seconds[known], macs), seconds, rtol=1e-6)


def test_one_percent_off_is_seen():
    scheme = next(scheme for scheme in all_schemes() if scheme.name == "cp3")
    macs = np.array([stage_macs(chain, SIZE) for chain in chains_of(scheme)])
    seconds = 1.0 + macs.sum(axis=1) / 1e6
    predicted = predict(macs, seconds, macs)
    assert np.abs(predicted / seconds - 1).max() < 1e-6
    assert np.abs(predicted / (1.01 * seconds) - 1).min() > 0.009


def test_more_work_is_never_predicted_to_take_less():
    rng = np.random.default_rng(0)
    macs = np.sort(rng.uniform(1, 100, (8, 1)), axis=0)
    seconds = 1.0 - 0.005 * macs[:, 0]  # a machine that got quicker meanwhile
    assert np.all(np.diff(predict(macs, seconds, macs)) >= -1e-12)


def test_macs_by_stage_add_up():
    for scheme in all_schemes():
        for chain in chains_of(scheme)[::7]:
            assert sum(stage_macs(chain, SIZE)) == chain.macs(SIZE)
