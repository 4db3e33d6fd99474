"""The losses against the published code's numbers, and the laws of the terms that are ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.golden import load_golden, relative_error

from hysac_export.config import ImageTower, LossConfig, ModelConfig, TextTower
from hysac_export.data.split import GROUPS
from hysac_export.model.hysac import STEM_CHANNELS, HySAC, WordHead
from hysac_export.training.losses import (
    Quadruplets,
    contrastive,
    entailment,
    euclidean_loss,
    hyperbolic_loss,
    published_terms,
    published_total,
    radius_hinge,
    ramp,
    words_loss,
)
from hysac_retrieval import lorentz

GOLDEN_GROUPS = {
    "safe_text": "text_safe",
    "safe_image": "vision_safe",
    "unsafe_text": "text_nsfw",
    "unsafe_image": "vision_nsfw",
}
DTYPES = [(torch.float64, "", 1e-9, 1e-7), (torch.float32, "_f32", 2e-4, 1e-2)]
DTYPE_NAMES = ["float64", "float32"]


def _leaf(value: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance", "gradient_tolerance"), DTYPES, ids=DTYPE_NAMES)
def test_contrastive_of_negative_distances_is_the_published_one(dtype, suffix, tolerance, gradient_tolerance):
    golden = load_golden("contrastive")
    for k in range(int(golden["n_cases"])):
        image, text, curv = (_leaf(golden[f"k{k}_{name}"], dtype) for name in ("image", "text", "curv"))
        scales = [_leaf(golden[f"k{k}_{name}_scale"], dtype) for name in ("image", "text")]
        similarity = -lorentz.pairwise_dist(text, image, curv)
        labels = torch.arange(len(text))
        # The published loss takes a scale per direction; ours takes one, so each direction is checked by itself.
        directions = [
            torch.nn.functional.cross_entropy(scales[0] * similarity.T, labels),
            torch.nn.functional.cross_entropy(scales[1] * similarity, labels),
        ]
        loss = 0.5 * (directions[0] + directions[1])
        loss.backward()
        expected = golden[f"k{k}_lorentz_loss{suffix}"]
        assert relative_error(loss.detach(), expected).max() < tolerance
        if torch.equal(scales[0], scales[1]):
            assert relative_error(contrastive(similarity, scales[0]).detach(), expected).max() < tolerance
        for name, leaf in {"image": image, "text": text, "curv": curv}.items():
            error = relative_error(leaf.grad, golden[f"k{k}_lorentz_g_{name}{suffix}"])
            assert error.max() < gradient_tolerance, (k, name)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), [d[:3] for d in DTYPES], ids=DTYPE_NAMES)
def test_contrastive_of_cosines_is_the_published_clip_loss(dtype, suffix, tolerance):
    golden = load_golden("contrastive")
    for k in range(int(golden["n_cases"])):
        image, text = (
            torch.nn.functional.normalize(torch.tensor(golden[f"k{k}_{name}"], dtype=dtype), dim=-1)
            for name in ("image", "text")
        )
        if golden[f"k{k}_image_scale"] == golden[f"k{k}_text_scale"]:
            loss = contrastive(text @ image.T, float(golden[f"k{k}_image_scale"]))
            assert relative_error(loss, golden[f"k{k}_clip_loss{suffix}"]).max() < tolerance


def test_entailment_is_the_published_one_for_every_aperture_scale_and_curvature():
    golden = load_golden("entailment")
    for k, curvature in enumerate(golden["curvs"]):
        for s, scale in enumerate(golden["aperture_scales"]):
            x, y, c = (_leaf(v, torch.float64) for v in (golden[f"k{k}_x"], golden[f"k{k}_y"], curvature))
            loss = entailment(x, y, c, float(scale))
            assert relative_error(loss.detach(), golden[f"k{k}_A"][s]).max() < 1e-9
            loss.backward()
            for leaf, name in ((x, "x"), (y, "y"), (c, "curv")):
                assert relative_error(leaf.grad, golden[f"k{k}_A_g_{name}"][s]).max() < 1e-7


@pytest.mark.parametrize(
    ("dtype", "tolerance", "gradient_tolerance"), [(d, t, g) for d, _, t, g in DTYPES], ids=DTYPE_NAMES
)
def test_seven_terms_total_and_gradients_are_the_published_ones(dtype, tolerance, gradient_tolerance):
    golden = load_golden("total_loss")
    for k in range(int(golden["n_cases"])):
        groups = {name: _leaf(golden[f"k{k}_{key}"], dtype) for name, key in GOLDEN_GROUPS.items()}
        log_curvature = _leaf(golden[f"k{k}_log_curv_clamped"], dtype)
        log_scale = _leaf(golden[f"k{k}_log_scale_clamped"], dtype)
        weight = float(golden[f"k{k}_entail_lambda"])
        terms = published_terms(
            Quadruplets(**groups), log_curvature.exp(), log_scale.exp(), float(golden[f"k{k}_aperture_scale"])
        )
        total = published_total(terms, entailment_weight=weight)
        values = torch.stack(list(terms.values())).detach()
        # Float32 is held to the exact numbers: in one case (curvature 0.1) the reference's own float32 is 2.5e-4 off.
        assert relative_error(values, golden[f"k{k}_losses"]).max() < tolerance, k
        assert relative_error(total.detach(), golden[f"k{k}_total"]).max() < tolerance, k
        total.backward()
        for name, key in GOLDEN_GROUPS.items():
            error = relative_error(groups[name].grad, golden[f"k{k}_g_{key}"])
            assert error.max() < gradient_tolerance, (k, name)
        inside = golden[f"k{k}_log_curv_in"] == golden[f"k{k}_log_curv_clamped"]
        if inside:
            assert relative_error(log_curvature.grad, golden[f"k{k}_g_log_curv"]).max() < gradient_tolerance
            assert relative_error(log_scale.grad, golden[f"k{k}_g_log_scale"]).max() < gradient_tolerance


def test_scalars_are_clamped_as_published():
    golden = load_golden("total_loss")
    model = HySAC(
        ModelConfig(
            dim=8,
            image=ImageTower(size=16, width=16, layers=1, head_width=8),
            text=TextTower(context_length=8, vocab_size=300, width=16, layers=1, heads=2),
        )
    )
    pairs = {
        "log_curv": model.log_curvature,
        "log_scale": model.log_logit_scale,
        "visual_alpha": model.log_alpha_image,
        "textual_alpha": model.log_alpha_text,
    }
    for k in range(int(golden["n_cases"])):
        for name, parameter in pairs.items():
            parameter.data.fill_(float(golden[f"k{k}_{name}_in"]))
        model.clamp()
        for name, parameter in pairs.items():
            assert relative_error(parameter.detach(), golden[f"k{k}_{name}_clamped_f32"]).max() < 1e-6, (k, name)


def _points(radii: list[float], curvature: float, n: int = 6, d: int = 5, seed: int = 0) -> Quadruplets:
    generator = torch.Generator().manual_seed(seed)
    groups = []
    for radius in radii:
        direction = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=-1)
        groups.append(lorentz.exp_map0(direction * radius, curvature))
    return Quadruplets(**dict(zip(GROUPS, groups, strict=True)))


@given(gap=st.floats(0.05, 0.5), curvature=st.floats(0.2, 4.0), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_radius_hinge_is_zero_exactly_when_all_groups_keep_their_gaps(gap, curvature, seed):
    kept = _points([1.0, 1.0 + gap + 1e-6, 1.0 + 2 * gap + 2e-6, 1.0 + 3 * gap + 3e-6], curvature, seed=seed)
    assert float(radius_hinge(kept, curvature, gap)) < 1e-9
    swapped = _points([1.0, 1.0 + 2 * gap, 1.0 + gap, 1.0 + 3 * gap], curvature, seed=seed)
    # By hand: image before unsafe text wants gap and has −gap (2 gap short); the pairs (text, unsafe text) and
    # (image, unsafe image), wanting 2 gap and having gap, are one gap short each. Mean over six pairs: 4 gap / 6.
    assert float(radius_hinge(swapped, curvature, gap)) == pytest.approx(4 * gap / 6, abs=1e-6)


def test_radius_hinge_pulls_safe_points_in_and_pushes_unsafe_points_out():
    groups = _points([1.0, 1.0, 1.0, 1.0], 1.0)
    leaves = {name: getattr(groups, name).clone().requires_grad_() for name in GROUPS}
    radius_hinge(Quadruplets(**leaves), 1.0, 0.3).backward()
    outward = {name: (leaf.grad * leaf).sum().item() for name, leaf in leaves.items()}
    assert outward["safe_text"] > outward["safe_image"] > outward["unsafe_text"] > outward["unsafe_image"]
    assert outward["safe_text"] > 0 > outward["unsafe_image"]


def test_words_loss_by_hand():
    logits = torch.tensor([[0.0, 2.0, -1.0]], dtype=torch.float64)
    expected = np.log(np.exp(0.0) + np.exp(2.0) + np.exp(-1.0)) - 2.0
    assert float(words_loss(logits, torch.tensor([[0.0, 1.0, 0.0]]))) == pytest.approx(expected)
    assert float(words_loss(logits, torch.zeros(1, 3))) == 0.0


def test_word_head_predicts_only_the_words_it_was_given():
    head = WordHead(torch.tensor([4, 7]), vocab_size=10)
    assert head(torch.zeros(3, STEM_CHANNELS, 2, 2)).shape == (3, 2)
    assert head.targets(torch.tensor([[1, 7, 7, 9], [0, 0, 4, 7]])).tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_ramp_is_off_before_its_start_and_full_after_a_tenth():
    assert [ramp(p, 0.3) for p in (0.0, 0.3, 0.35, 0.4, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert ramp(0.0, 0.0) == 1.0


def test_published_settings_give_the_published_total_and_extras_only_add():
    points, curvature, scale = _points([1.0, 1.2, 1.1, 1.4], 1.0), torch.tensor(1.0), torch.tensor(14.0)
    total, terms = hyperbolic_loss(points, curvature, scale, LossConfig(), 0.0)
    assert total == pytest.approx(float(published_total(published_terms(points, curvature, scale))))
    assert len(terms) == 7
    extra = LossConfig(joint=1.0, radius=1.5)
    more, more_terms = hyperbolic_loss(points, curvature, scale, extra, 0.0)
    assert more == pytest.approx(float(total + more_terms["joint"] + 1.5 * more_terms["radius"]))


def test_joint_term_takes_the_twin_for_a_negative():
    # Safe and unsafe coincide: no pool of one kind can see it, the union pool must (at least log 2 per row).
    points = _points([1.0, 1.0, 1.0, 1.0], 1.0)
    same = Quadruplets(points.safe_text, points.safe_text, points.safe_text, points.safe_text)
    _, terms = hyperbolic_loss(same, torch.tensor(1.0), torch.tensor(100.0), LossConfig(joint=1.0), 0.0)
    assert float(terms["T-I"]) < 0.1
    assert float(terms["joint"]) > np.log(2) * 0.99


def test_euclidean_loss_is_clip_over_the_union():
    groups = [torch.nn.functional.normalize(torch.randn(3, 4, dtype=torch.float64), dim=-1) for _ in range(4)]
    points = Quadruplets(*groups)
    loss, _ = euclidean_loss(points, torch.tensor(10.0, dtype=torch.float64))
    logits = 10 * torch.cat([groups[0], groups[2]]) @ torch.cat([groups[1], groups[3]]).T
    rows = -torch.log_softmax(logits, 1).diagonal().mean()
    columns = -torch.log_softmax(logits, 0).diagonal().mean()
    assert float(loss) == pytest.approx(float((rows + columns) / 2))


def _lacking(seed: int = 3) -> tuple[Quadruplets, torch.Tensor, torch.Tensor]:
    """Eight quadruplets, of which two lack the safe picture, three the unsafe one, and one of those both."""
    points = _points([1.0, 1.3, 1.5, 2.0], 0.7, n=8, seed=seed)
    safe, unsafe = torch.ones(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool)
    safe[[1, 4]] = False
    unsafe[[2, 4, 7]] = False
    groups = {name: getattr(points, name).clone().requires_grad_() for name in GROUPS}
    return Quadruplets(**groups, safe_shown=safe, unsafe_shown=unsafe), safe, unsafe


def test_a_missing_picture_leaves_the_other_pairs_their_terms():
    points, safe, unsafe = _lacking()
    curvature, scale = torch.tensor(0.7, dtype=torch.float64), torch.tensor(14.0, dtype=torch.float64)
    terms = published_terms(points, curvature, scale)
    with_safe, with_unsafe = (
        Quadruplets(**{name: getattr(points, name)[rows] for name in GROUPS}) for rows in (safe, unsafe)
    )
    # A term of safe pictures is that of the quadruplets that have one, whatever else these lack; and so of the unsafe.
    for name, value in published_terms(with_safe, curvature, scale).items():
        if name in ("T-I", "T*-I", "T<I", "I<T*"):
            assert terms[name].item() == pytest.approx(value.item()), name
    for name, value in published_terms(with_unsafe, curvature, scale).items():
        if name in ("T*-I*", "T-I*", "T*<I*"):
            assert terms[name].item() == pytest.approx(value.item()), name


def test_the_union_and_the_hinge_take_the_pictures_that_there_are():
    points, safe, unsafe = _lacking()
    _, terms = hyperbolic_loss(points, torch.tensor(0.7), torch.tensor(14.0), LossConfig(joint=1.0, radius=1.0), 0.0)
    texts = torch.cat([points.safe_text[safe], points.unsafe_text[unsafe]])
    images = torch.cat([points.safe_image[safe], points.unsafe_image[unsafe]])
    joint = contrastive(-lorentz.pairwise_dist(texts, images, 0.7), 14.0)
    assert terms["joint"].item() == pytest.approx(joint.item())
    radii = [lorentz.dist0(x, 0.7) for x in (points.safe_text, images[:6], points.unsafe_text, images[6:])]
    hinges = [
        torch.relu(radii[a][:, None] + 0.3 * (b - a) - radii[b][None, :]).mean()
        for a in range(4)
        for b in range(a + 1, 4)
    ]
    assert terms["radius"].item() == pytest.approx(torch.stack(hinges).mean().item())


EVERY_TERM = LossConfig(joint=1.0, radius=1.0, redirection=1.0, cones=("T<I", "T*<I*", "I<T*", "T<T*"))


@pytest.mark.parametrize("config", [EVERY_TERM, LossConfig(), LossConfig(safe_clip=1.0), None])
def test_what_stands_in_for_a_missing_picture_changes_nothing_and_gets_no_gradient(config):
    results = []
    for stand_in in (0.0, 0.4):
        points, safe, unsafe = _lacking()
        leaves = {name: getattr(points, name) for name in GROUPS}
        with torch.no_grad():
            points.safe_image[~safe] = stand_in
            points.unsafe_image[~unsafe] = stand_in
        curvature, scale = torch.tensor(0.7, dtype=torch.float64), torch.tensor(14.0, dtype=torch.float64)
        if config is None or config.safe_clip:
            total, _ = euclidean_loss(points, scale, config)
        else:
            total, _ = hyperbolic_loss(points, curvature, scale, config, 0.5)
        total.backward()
        assert not leaves["safe_image"].grad[~safe].any()
        assert not leaves["unsafe_image"].grad[~unsafe].any()
        results.append([total.detach(), *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(torch.isfinite(value).all() for value in results[0])


@pytest.mark.parametrize("config", [EVERY_TERM, LossConfig(safe_clip=1.0), None])
def test_masks_that_hide_nothing_give_the_same_loss(config):
    points = _points([1.0, 1.3, 1.5, 2.0], 0.7, n=8)
    every = torch.ones(8, dtype=torch.bool)
    masked = Quadruplets(**{name: getattr(points, name) for name in GROUPS}, safe_shown=every, unsafe_shown=every)
    scale = torch.tensor(14.0)
    losses = [
        euclidean_loss(p, scale, config) if config is None or config.safe_clip
        else hyperbolic_loss(p, torch.tensor(0.7), scale, config, 0.5)
        for p in (points, masked)
    ]  # fmt: skip
    assert losses[0][0].item() == pytest.approx(losses[1][0].item(), rel=1e-12)
    assert losses[0][1].keys() == losses[1][1].keys()


def test_captions_alone_learn_the_hinge_and_the_cone_of_texts_and_nothing_else():
    none = torch.zeros(6, dtype=torch.bool)
    points = _points([1.0, 1.0, 1.0, 1.0], 1.0)
    groups = {name: getattr(points, name).requires_grad_() for name in GROUPS}
    alone = Quadruplets(**groups, safe_shown=none, unsafe_shown=none)
    curvature, scale = torch.tensor(1.0), torch.tensor(14.0)
    total, terms = hyperbolic_loss(alone, curvature, scale, LossConfig(), 0.0)
    assert total.item() == 0.0
    total, terms = hyperbolic_loss(alone, curvature, scale, EVERY_TERM, 0.0)
    assert {name for name, value in terms.items() if value.item()} == {"radius", "T<T*"}
    total.backward()
    assert groups["safe_text"].grad.any()
    assert groups["unsafe_text"].grad.any()
    assert not groups["safe_image"].grad.any()
    gone = Quadruplets(
        **{name: getattr(_points([1.0] * 4, 1.0), name) for name in GROUPS}, safe_shown=none, unsafe_shown=none
    )
    _, safe_clip = euclidean_loss(gone, scale, LossConfig(safe_clip=1.0))
    assert {name for name, value in safe_clip.items() if value.item()} == {"T*->T"}


def test_terms_of_no_weight_are_nothing() -> None:
    terms = {name: torch.tensor(2.0) for name in ("T<I", "T*<I*")}
    assert float(published_total(terms, 0.0, 0.0)) == 0.0


# --- cones beyond the published ones ----------------------------------------------------------------------------------


def _four() -> Quadruplets:
    torch.manual_seed(3)
    return Quadruplets(*(torch.randn(5, 4, dtype=torch.float64) * size for size in (0.3, 0.6, 1.0, 1.4)))


def _total(**settings) -> float:
    one = torch.tensor(1.0, dtype=torch.float64)
    return float(hyperbolic_loss(_four(), one, one, LossConfig(**settings), progress=1.0)[0])


@pytest.mark.parametrize("published", [True, False])
def test_a_factor_of_one_cone_is_a_weight_of_its_term_alone(published):
    terms = hyperbolic_loss(_four(), torch.tensor(1.0).double(), torch.tensor(1.0).double(), LossConfig(), 1.0)[1]
    plain = _total(published_normalisation=published, entailment=0.5)
    more = _total(published_normalisation=published, entailment=0.5, cone_weights={"I<T*": 3.0})
    pairs = sum(float(terms[name]) for name in ("T-I", "T*-I*", "T-I*", "T*-I"))
    others = float(terms["T<I"] + terms["T*<I*"])
    last = float(terms["I<T*"])
    assert plain == pytest.approx((pairs + 0.5 * (others + last)) / (7 * 5.5 if published else 1))
    assert more == pytest.approx((pairs + 0.5 * others + 1.5 * last) / (7 * 6.5 if published else 1))


def test_cones_at_a_power_of_the_radii_and_of_one_width():
    points = _four()
    x, y = points.safe_text, points.safe_image
    angles = lorentz.radial_angle(x, y, 1.0, 3.0)
    over = (angles - lorentz.half_aperture(x, 1.0)).clamp(min=0).mean()
    assert float(entailment(x, y, 1.0, power=3.0)) == pytest.approx(float(over))
    angles = lorentz.exterior_angle(x, y, 1.0)
    assert float(entailment(x, y, 1.0, half_aperture=0.4)) == pytest.approx(float((angles - 0.4).clamp(min=0).mean()))


def test_a_cone_of_the_config_reaches_its_term():
    one = torch.tensor(1.0, dtype=torch.float64)
    config = LossConfig(cones=("T<I", "T<T*"), half_apertures={"T<T*": 30.0}, cone_power=2.0)
    terms = hyperbolic_loss(_four(), one, one, config, 1.0)[1]
    points = _four()
    expected = entailment(points.safe_text, points.unsafe_text, 1.0, power=2.0, half_aperture=np.pi / 6)
    assert float(terms["T<T*"]) == pytest.approx(float(expected))
    expected = entailment(points.safe_text, points.safe_image, 1.0, power=2.0)
    assert float(terms["T<I"]) == pytest.approx(float(expected))


@pytest.mark.parametrize("field", ["cone_weights", "half_apertures"])
def test_a_setting_of_a_cone_that_is_off_is_refused(field):
    with pytest.raises(ValueError, match=r"loss\.cones does not"):
        LossConfig(cones=("T<I",), **{field: {"I<T*": 1.0}})
