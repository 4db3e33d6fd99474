"""The geometry agrees with the published code, value for value and gradient for gradient.

Where the reference is itself inexact its recorded distance from 70-digit arithmetic widens the
tolerance (10 * noise). Where it clamps and we do not (distances below 1.4e-4, log_map0 near the origin)
the tests say so; exactness there is shown in test_lorentz.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.golden import load_golden, relative_error

from hysac_retrieval import lorentz

OPS = load_golden("lorentz_ops")
CURVATURES = [float(c) for c in OPS["curvs"]]
PAIR_OPS = {
    "elementwise_inner": lorentz.inner,
    "elementwise_dist": lorentz.dist,
    "oxy_angle": lorentz.exterior_angle,
}
ALL_PAIRS_OPS = {
    "pairwise_inner": lorentz.pairwise_inner,
    "pairwise_dist": lorentz.pairwise_dist,
    "oxy_angle_grid": lambda x, y, c: lorentz.exterior_angle(x[:, None], y[None], c),
}
POINT_OPS = {
    "half_aperture": lorentz.half_aperture,
    "half_aperture_mr025": lambda x, c: lorentz.half_aperture(x, c, min_radius=0.25),
}


def make(library: str, values: np.ndarray, dtype: str):
    if library == "numpy":
        return np.asarray(values, dtype=dtype)
    torch = pytest.importorskip("torch")
    return torch.tensor(values, dtype=getattr(torch, dtype))


@pytest.fixture(params=["numpy", "torch"])
def library(request):
    return request.param


def outputs(library: str, dtype: str, index: int):
    """Every operation with its reference, its noise, and the scaled norms of the points that go in."""
    c = CURVATURES[index]
    x, y, ex, ey, v = (make(library, OPS[key], dtype) for key in ("x", "y", "ex", "ey", "v"))
    norm = {key: np.linalg.norm(OPS[key], axis=-1) * c**0.5 for key in ("x", "y", "ex", "ey", "v")}
    results = {name: (op(ex, ey, c), norm["ex"], norm["ey"]) for name, op in PAIR_OPS.items()}
    results |= {name: (op(x, y, c), norm["x"][:, None], norm["y"][None]) for name, op in ALL_PAIRS_OPS.items()}
    results |= {name: (op(x, c), norm["x"], norm["x"]) for name, op in POINT_OPS.items()}
    results["exp_map0"] = (lorentz.exp_map0(v, c), norm["v"][:, None], norm["v"][:, None])
    floor = np.arccosh(1 + 1e-8) / c**0.5
    for name, (got, first, second) in results.items():
        assert str(got.dtype).endswith(dtype), name
        got = np.asarray(got, dtype=np.float64)
        if name.endswith("dist"):
            got = np.maximum(got, floor)  # the reference cannot return less; we can
        yield name, got, OPS[name][index], OPS[f"{name}_noise"][index], (first, second)


@pytest.mark.parametrize("index", range(len(CURVATURES)))
def test_values_agree_in_float64(library, index):
    for name, got, expected, noise, _ in outputs(library, "float64", index):
        bound = 1e-9 * np.maximum(1, np.abs(expected)) + 10 * noise
        worst = np.max(np.abs(got - expected) / bound)
        assert worst <= 1, f"{name}: {worst:.2g} times the tolerance"


@pytest.mark.parametrize("index", range(len(CURVATURES)))
def test_values_agree_in_float32(library, index):
    # The angle is held over all norms from 0 to 1e5, where the reference's own float32 is noise.
    tolerances = {"elementwise_dist": 1e-4, "pairwise_dist": 1e-4}
    for name, got, expected, _, (first, second) in outputs(library, "float32", index):
        usual = (first >= 0.01) & (first <= 50) & (second >= 0.01) & (second <= 50)
        usual = np.broadcast_to(usual | ("angle" in name), expected.shape)
        worst = np.max(relative_error(got, expected)[usual])
        assert worst <= tolerances.get(name, 1e-5), f"{name}: {worst:.2g}"


@pytest.mark.parametrize("index", range(len(CURVATURES)))
def test_log_map0_agrees_where_the_reference_does_not_clamp(library, index):
    # Below sqrt(c)|x| = 4.5e-3 the reference inflates vectors (447 times at norm 1e-6); we invert exp_map0 there.
    c = CURVATURES[index]
    usable = np.linalg.norm(OPS["x"], axis=-1) * c**0.5 >= 0.01
    expected, noise = OPS["log_map0"][index][usable], OPS["log_map0_noise"][index][usable]
    got = np.asarray(lorentz.log_map0(make(library, OPS["x"], "float64"), c))[usable]
    assert np.all(np.abs(got - expected) <= 1e-9 * np.maximum(1, np.abs(expected)) + 10 * noise)
    single = np.asarray(lorentz.log_map0(make(library, OPS["x"], "float32"), c))[usable]
    assert np.max(relative_error(single, expected)) <= 1e-5


@pytest.mark.parametrize("index", range(len(CURVATURES)))
def test_exp_map0_gradients_agree(index):
    torch = pytest.importorskip("torch")
    v = torch.tensor(OPS["v"], requires_grad=True)
    c = torch.tensor(CURVATURES[index], dtype=torch.float64, requires_grad=True)
    (torch.tensor(OPS["w"]) * lorentz.exp_map0(v, c)).sum().backward()
    assert np.max(relative_error(v.grad, OPS["exp_map0_grad_in"][index])) <= 1e-7
    assert relative_error(c.grad, OPS["exp_map0_grad_curv"][index]) <= 1e-7


@pytest.mark.parametrize("index", range(len(CURVATURES)))
def test_log_map0_gradient_agrees_where_the_reference_does_not_clamp(index):
    torch = pytest.importorskip("torch")
    x = torch.tensor(OPS["x"], requires_grad=True)
    (torch.tensor(OPS["w_log"]) * lorentz.log_map0(x, CURVATURES[index])).sum().backward()
    usable = np.linalg.norm(OPS["x"], axis=-1) * CURVATURES[index] ** 0.5 >= 0.01
    assert np.max(relative_error(x.grad, OPS["log_map0_grad_in"][index])[usable]) <= 1e-7


@pytest.mark.parametrize(("dtype", "loss_bound", "gradient_bound"), [("float64", 1e-9, 1e-7), ("float32", 2e-4, 1e-2)])
def test_contrastive_losses_and_gradients_agree_through_pairwise_dist(dtype, loss_bound, gradient_bound):
    torch = pytest.importorskip("torch")
    golden = load_golden("contrastive")
    for k in range(int(golden["n_cases"])):
        names = ("image", "text", "curv", "image_scale", "text_scale")
        image, text, curv, image_scale, text_scale = leaves = [
            make("torch", golden[f"k{k}_{name}"], dtype).requires_grad_() for name in names
        ]
        logits = -lorentz.pairwise_dist(image, text, curv)
        labels = torch.arange(len(image))
        loss = (
            torch.nn.functional.cross_entropy(image_scale * logits, labels)
            + torch.nn.functional.cross_entropy(text_scale * logits.T, labels)
        ) / 2
        loss.backward()
        assert np.max(relative_error(logits.detach(), golden[f"k{k}_lorentz_image_logits"])) <= loss_bound
        assert relative_error(loss.detach(), golden[f"k{k}_lorentz_loss"]) <= loss_bound
        for name, leaf in zip(names, leaves, strict=True):
            assert np.max(relative_error(leaf.grad, golden[f"k{k}_lorentz_g_{name}"])) <= gradient_bound, (k, name)


@pytest.mark.parametrize(("dtype", "loss_bound", "gradient_bound"), [("float64", 1e-9, 1e-7), ("float32", 2e-4, 1e-2)])
def test_entailment_losses_and_gradients_agree_through_angle_and_aperture(dtype, loss_bound, gradient_bound):
    pytest.importorskip("torch")
    golden = load_golden("entailment")
    for k in range(len(golden["curvs"])):
        for i, scale in enumerate(golden["aperture_scales"]):
            x, y, curv = (
                make("torch", values, dtype).requires_grad_()
                for values in (golden[f"k{k}_x"], golden[f"k{k}_y"], golden["curvs"][k])
            )
            excess = lorentz.exterior_angle(x, y, curv) - float(scale) * lorentz.half_aperture(x, curv)
            loss = excess.clamp(min=0).mean()
            loss.backward()
            assert relative_error(loss.detach(), golden[f"k{k}_A"][i]) <= loss_bound
            for name, leaf in (("x", x), ("y", y), ("curv", curv)):
                assert np.max(relative_error(leaf.grad, golden[f"k{k}_A_g_{name}"][i])) <= gradient_bound, (k, name)


def test_traverse_agrees_where_the_reference_moves():
    # The reference sets the Euclidean norm to its bound B, that is the radius asinh(√c B) / √c.
    golden = load_golden("traversal")
    curvatures = np.exp(golden["log_curv"])
    moved = np.flatnonzero(golden["moved_image"])
    assert moved.size > 5
    for i in moved:
        radius = np.arcsinh(curvatures[i] ** 0.5 * golden["eff_bound_V"][i]) / curvatures[i] ** 0.5
        got = lorentz.traverse(golden["emb"][i], radius, curvatures[i])
        np.testing.assert_allclose(got, golden["out_image"][i], rtol=1e-9, atol=1e-12)


def test_dist0_agrees_above_the_floor_of_the_reference():
    golden = load_golden("traversal")
    curvatures = np.exp(golden["log_curv"])
    got = np.array([lorentz.dist0(x, c) for x, c in zip(golden["emb"], curvatures, strict=True)])
    floor = np.arccosh(1 + 1e-8) / curvatures**0.5
    np.testing.assert_allclose(np.maximum(got, floor), golden["dist0"], rtol=1e-7)


def test_path_to_the_root_and_its_masked_scores_agree(library):
    golden = load_golden("root_interp")
    for k in range(int(golden["n_cases"])):
        c, steps = float(golden[f"k{k}_curv"]), int(golden[f"k{k}_steps"])
        image = make(library, golden[f"k{k}_image"], "float64")
        pool = make(library, golden[f"k{k}_text_pool_with_root_last"], "float64")
        weights = make(library, golden[f"k{k}_weights_root_to_image"], "float64")
        path = lorentz.exp_map0(lorentz.log_map0(image, c) * weights[:, None], c)
        flipped = np.asarray(path)[::-1]
        np.testing.assert_allclose(flipped, golden[f"k{k}_interp"], rtol=1e-9, atol=1e-12)
        if steps > 1:  # the reference's weights are float32; a path of one point is for it the root, for us the image
            np.testing.assert_allclose(lorentz.geodesic_to_origin(image, steps, c), flipped, rtol=1e-6, atol=1e-7)
        path = make(library, golden[f"k{k}_interp"], "float64")
        scores = np.asarray(lorentz.pairwise_inner(path, pool, c)).copy()
        outside = np.asarray(lorentz.exterior_angle(pool, path[:, None], c) > lorentz.half_aperture(pool, c))
        outside[:, -1] = False
        scores[outside] = -1e12
        np.testing.assert_allclose(scores, golden[f"k{k}_scores"], rtol=1e-9)


def test_recall_by_inner_product_is_the_same_to_the_last_hit(library):
    golden = load_golden("recall")
    cases = sorted(key.removesuffix("_text_safe") for key in golden if key.endswith("_text_safe"))
    assert cases
    sets = {"S": "text_safe", "V": "vision_safe", "U": "text_nsfw", "G": "vision_nsfw"}
    for case in cases:
        points = {short: make(library, golden[f"{case}_{name}"], "float64") for short, name in sets.items()}
        for text, image in ("SV", "SG", "UV", "UG"):
            scores = np.asarray(lorentz.pairwise_inner(points[text], points[image], float(golden[f"{case}_curv"])))
            for direction, matrix in (("t2i", scores), ("i2t", scores.T)):
                rank = (matrix > np.diag(matrix)[:, None]).sum(axis=1)
                recalls = [np.mean(rank < k) for k in golden["K"]]
                np.testing.assert_allclose(recalls, golden[f"{case}_{text}_{image}_hyp_{direction}"], rtol=1e-12)
