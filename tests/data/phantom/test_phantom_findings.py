import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.data.phantom.anatomy import draw_anatomy, draw_pose, frame_of
from primia.data.phantom.findings import draw_finding, render_finding
from primia.data.phantom.tissue import render_tissue


def chest(label, seed):
    """Fluid and shadows of one finding, the air it lies in, and which pixels are the patient's left."""
    rng = np.random.default_rng(seed)
    anatomy, pose, finding = draw_anatomy(rng), draw_pose(rng), draw_finding(label, rng)
    frame = frame_of(anatomy, pose, pixels=64)
    fluid, shadows = render_finding(finding, anatomy, frame)
    air = render_tissue(anatomy, pose, frame).air
    fluid, shadows = (np.broadcast_to(layer, air.shape) for layer in (fluid, shadows))
    return fluid, shadows, air, frame.left


def test_a_normal_chest_has_neither_fluid_nor_shadows():
    fluid, shadows, _, _ = chest("normal", 1)
    assert not fluid.any() and not shadows.any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_bacterial_fluid_replaces_air_on_one_side_only(seed):
    fluid, shadows, air, left = chest("bacterial", seed)
    assert fluid.min() >= 0.0 and fluid.max() <= 1.0
    replaced = sorted(float((fluid * air)[side].sum()) for side in (left, ~left))
    assert replaced[0] == 0.0 and replaced[1] > 1.0
    assert not shadows.any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_viral_pattern_lies_on_both_sides(seed):
    fluid, shadows, air, left = chest("viral", seed)
    assert fluid.min() >= 0.0 and fluid.max() < 1.0
    lung = air > 0.45
    haze = sorted(float(fluid[lung & side].mean()) for side in (left, ~left))
    assert haze[0] > 0.03 * haze[1] > 0.0
    assert all(shadows[lung & side].std() > 0.004 for side in (left, ~left))


@pytest.mark.parametrize("label", ["bacterial", "viral"])
def test_severity_runs_from_subtle_to_gross_without_a_gap(label):
    lost = np.sort(
        [float((fluid * air).sum() / air.sum()) for fluid, _, air, _ in (chest(label, k) for k in range(120))]
    )
    assert lost[0] < 0.06 and lost[-1] > 0.25
    assert np.diff(lost).max() < 0.12
