"""Claims of prediction, decorrelation, spread and wrappers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from claim import Claim
from claims_soft import told
from claims_softmax import SIMCLR, across
from small import Data, augmented, both_halves, digits, gap, halves, knn, mlp, plain, probe, trained, vectors, view
from torch import Tensor, nn

from counterpoint._ops.geometry import rankme, width
from counterpoint.encoders.momentum import follow, teacher_of
from counterpoint.encoders.sparse import SparseCode
from counterpoint.objectives.decorrelation import BARLOW, VICREG, barlow_twins, mixed_barlow_twins, vicreg
from counterpoint.objectives.information import sepclr
from counterpoint.objectives.prediction import fixed, prediction, slap
from counterpoint.objectives.sparse import csr
from counterpoint.objectives.spread import alignment, dispersive, uniformity
from counterpoint.objectives.whitening import whiten
from counterpoint.objectives.wrappers import matryoshka
from counterpoint.types import Batch, Embeddings, Outcome


def predicted(predictor: bool, seed: int) -> float:
    """How far SimSiam's space is spread, with its predictor and stopped targets, or with alignment alone."""
    data = digits(seed)
    modules = {"encoder": mlp(64), "head": nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))}

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = sets["view0"], sets["view1"]
        if not predictor:
            return alignment(a, c)
        p, q = (Embeddings.of(modules["head"](rows.z), id=rows.id, view=k) for k, rows in enumerate((a, c)))
        return Outcome.of(there=(0.5, prediction(p, fixed(c))), back=(0.5, prediction(q, fixed(a))))

    return width(vectors(trained(modules, augmented(), objective, data, seed=seed)["encoder"], data.held))


def projected(loss: Callable, measure: Callable[[nn.Module, Data], float], seed: int, batch: int = 128) -> float:
    """An encoder whose loss is taken behind a projector that is left out afterwards, as in the papers."""
    data = digits(seed)
    modules = {
        "encoder": mlp(64),
        "projector": nn.Sequential(nn.ReLU(), nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128)),
    }

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        sides = (
            Embeddings.of(modules["projector"](rows.z), id=rows.id, view=k) for k, rows in enumerate(sets.values())
        )
        return loss(*sides)

    return measure(trained(modules, augmented(), objective, data, seed=seed, batch=batch)["encoder"], data)


def spread(encoder: nn.Module, data: Data) -> float:
    """The width of the space on rows held out: 0 collapsed, 1 even."""
    return width(vectors(encoder, data.held))


def overfitted(scale: float, seed: int) -> float:
    """Accuracy after 800 steps on 300 digits, with the term of mixtures weighed by `scale`."""
    data = digits(seed)
    few = data.some(torch.arange(300))
    generator = torch.Generator().manual_seed(seed)

    def views(batch: Batch, g: torch.Generator) -> dict[str, Batch]:
        found = augmented()(batch, g)
        order = torch.randperm(len(batch["x"]), generator=generator)
        share = torch.rand((), generator=generator)
        mixture = share * found["view0"]["x"] + (1 - share) * found["view1"]["x"][order]
        return found | {"mixed": view(batch, mixture, "encoder", 2) | {"order": order, "share": share}}

    kept: dict[str, Tensor] = {}

    def watched(batch: Batch, g: torch.Generator) -> dict[str, Batch]:
        found = views(batch, g)
        kept.update(partner=batch["id"][found["mixed"]["order"]], share=found["mixed"]["share"])
        return found

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        ids, share = sets["mixed"].id, kept["share"].expand(len(kept["partner"]))
        facts = {
            "sources": torch.stack([ids, kept["partner"]], 1), "shares": torch.stack([share, 1 - share], 1)
        }  # fmt: skip
        mixed = Embeddings.of(sets["mixed"].z, id=-1 - ids, facts=facts)
        return mixed_barlow_twins(sets["view0"], sets["view1"], mixed, off_diagonal=0.0078, scale=scale)

    found = trained({"encoder": mlp(64, 128)}, watched, objective, few, seed=seed, steps=800)
    return knn(found["encoder"], Data(data.x, data.y, data.held, data.answers))


def whitened(groups: int, seed: int) -> float:
    """Uniformity of digits held out, with vectors whitened in shuffled groups before the loss, or not."""
    data = digits(seed)
    generator = torch.Generator().manual_seed(seed)

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = sets["view0"], sets["view1"]
        if groups:
            a, c = (whiten(rows, groups=groups, order=torch.randperm(32, generator=generator)) for rows in (a, c))
        return SIMCLR(a, c)

    encoder = trained({"encoder": mlp(64)}, augmented(), objective, data, seed=seed)["encoder"]
    return float(uniformity(vectors(encoder, data.held)).loss)


def separated(joint: float, seed: int) -> float:
    """How much more of the digit the salient code knows than the common one; digits lie on stripes of ten directions."""
    data, generator = digits(seed), torch.Generator().manual_seed(seed)

    def scenes(x: Tensor, there: Tensor) -> Tensor:
        at = torch.arange(8.0)
        angle = torch.randint(10, (len(x),), generator=generator) * torch.pi / 10
        wave = torch.cos(angle)[:, None, None] * at[:, None] + torch.sin(angle)[:, None, None] * at[None]
        return (x + 0.5) * there[:, None] + 0.5 * (wave * 1.5).sin().flatten(1)

    there = torch.arange(len(data.x)) % 2 == 0
    train = Data(scenes(data.x, there), there.long(), data.held, data.answers)

    def views(batch: Batch, g: torch.Generator) -> dict[str, Batch]:
        copies = [batch["x"] + 0.2 * torch.randn(batch["x"].shape, generator=g) for _ in range(2)]
        return {
            f"{by}{k}": view(batch, x, by, k) for by in ("common", "salient") for k, x in enumerate(copies)
        }  # fmt: skip

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        a, c = (
            told(sets[f"common{k}"], salient=sets[f"salient{k}"].z, target=sets[f"common{k}"].facts["label"].bool())
            for k in (0, 1)
        )
        return sepclr(a, c, weights=(1.0, 1.0, 10.0, joint))

    modules = trained({"common": mlp(64, 16), "salient": mlp(64, 16)}, views, objective, train, seed=seed, steps=300)
    known, asked = (scenes(x, torch.ones(len(x))) for x in (data.x, data.held))
    scores = {}
    for name in ("common", "salient"):
        with torch.no_grad():
            scores[name] = probe(modules[name](known), data.y, modules[name](asked), data.answers)
    return scores["salient"] - scores["common"]


def siamese(seed: int) -> float:
    """The gap of both halves' centres by SLAP, without negatives."""
    data = digits(seed)
    modules: dict[str, nn.Module] = {"left": mlp(32), "right": mlp(32)}
    modules |= {f"{name} teacher": teacher_of(modules[name]) for name in ("left", "right")}
    modules |= {
        f"{name} head": nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for name in ("left", "right")
    }

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        sides = []
        for name, half in zip(("left", "right"), halves(data.x[sets["left"].facts["row"]]), strict=True):
            with torch.no_grad():
                known = modules[f"{name} teacher"](half)
            said = modules[f"{name} head"](sets[name].z)
            sides.append(Embeddings.of(said, id=sets[name].id, view=len(sides), facts={"teacher": known}))
        return slap(*sides)

    def after(modules: nn.ModuleDict, _sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        for name in ("left", "right"):
            follow(modules[f"{name} teacher"], modules[name], momentum=0.95)

    return gap(trained(modules, both_halves, objective, data, seed=seed, after=after), data.held)


def cut_to(kept: int, nested: bool, seed: int) -> float:
    """Accuracy by the first few of 32 coordinates, trained on prefixes too or not."""
    data = digits(seed)
    loss = matryoshka(SIMCLR, [4, 8, 16, 32]) if nested else SIMCLR

    def objective(_modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        return loss(sets["view0"], sets["view1"])

    encoder = trained({"encoder": mlp(64)}, augmented(), objective, data, seed=seed)["encoder"]
    return knn(lambda x: encoder(x)[:, :kept], data)


def sparse_code(learned: bool, seed: int) -> float:
    """Accuracy at 4 numbers a row: a sparse code of 256 units with 4 in use, or the first 4 principal components."""
    data = digits(seed)
    centre = data.x.mean(0)
    if not learned:
        directions = torch.linalg.svd(data.x - centre, full_matrices=False)[2][:4]
        return knn(lambda x: (x - centre) @ directions.T, data)

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        code, rows = cast(SparseCode, modules["code"]), sets["rows"]
        x = data.x[rows.facts["row"]]
        return csr(*(Embeddings.of(code(x), id=rows.id, view=k, facts=code.facts(x)) for k in (0, 1)))

    def after(modules: nn.ModuleDict, sets: dict[str, Embeddings], _outcome: Outcome) -> None:
        code = cast(SparseCode, modules["code"])
        code.observe(code(data.x[sets["rows"].facts["row"]]))

    modules = {"code": SparseCode(64, 256, k=4, dead_k=32), "encoder": nn.Identity()}
    return knn(trained(modules, plain, objective, data, seed=seed, steps=400, after=after)["code"], data)


def hidden_rank(weight: float, seed: int) -> float:
    """RankMe of a denoiser's hidden layer on digits held out."""
    data = digits(seed)
    modules = {"encoder": nn.Sequential(*mlp(64, 128)[:-1]), "out": nn.Linear(128, 64)}

    def objective(modules: nn.ModuleDict, sets: dict[str, Embeddings]) -> Outcome:
        rows = sets["view0"]
        error = (modules["out"](rows.z) - data.x[rows.facts["row"]]).square().mean()
        return Outcome.of(error=(1.0, Outcome({"x": error}, {"x": 1.0}, {})), apart=(weight, dispersive(rows)))

    found = trained(modules, augmented(1, noise=0.5), objective, data, seed=seed)["encoder"]
    with torch.no_grad():
        return rankme(found(data.held))


CLAIMS = [
    Claim(
        "prefixes (Matryoshka)", "trained on prefixes, an embedding can be cut off",
        "accuracy of 5 neighbours by 4 of 32 coordinates", partial(cut_to, 4, True), partial(cut_to, 4, False),
        reference="Kusupati et al.: Matryoshka Representation Learning, arXiv:2205.13147, 2022",
    ),
    Claim(
        "sparse codes (CSR)", "a sparse code keeps more than a short vector of as many numbers",
        "accuracy of 5 neighbours by 4 numbers a row", partial(sparse_code, True), partial(sparse_code, False), row=132,
    ),
    Claim(
        "dispersed activations (Dispersive Loss)", "pushing inner activations apart enriches a denoiser's features",
        "RankMe of the hidden layer", partial(hidden_rank, 0.5), partial(hidden_rank, 0.0), row=77,
    ),
    Claim(
        "predictor and stopped targets (SimSiam)", "they keep pairs alone from collapsing the space",
        "width of the space", partial(predicted, True), partial(predicted, False),
        reference="Chen, He: Exploring Simple Siamese Representation Learning, arXiv:2011.10566, 2020",
    ),
    Claim(
        "variance and covariance (VICReg)", "they keep pairs alone from collapsing the space",
        "width of the space", partial(projected, vicreg, spread), partial(projected, alignment, spread),
        reference=VICREG,
    ),
    Claim(
        "decorrelation (Barlow Twins)", "it needs no large batches, where contrast of instances does",
        "accuracy of 5 neighbours, batches of 16", partial(projected, partial(barlow_twins, off_diagonal=0.0078), knn, batch=16),
        partial(projected, SIMCLR, knn, batch=16),
        reference=BARLOW,
    ),
    Claim(
        "mixtures (Mixed Barlow Twins)", "mixed samples keep Barlow Twins from overfitting",
        "accuracy of 5 neighbours, 800 steps on 300 digits", partial(overfitted, 5.0), partial(overfitted, 0.0), row=218,
    ),
    Claim(
        "shuffled group whitening (WhitenedCSE)", "it spreads the space more evenly",
        "uniformity of digits held out", partial(whitened, 4), partial(whitened, 0), row=28, higher=False,
    ),
    Claim(
        "common and salient (SepCLR)", "maximal joint entropy keeps what the targets have out of the common code",
        "accuracy of the salient code less that of the common one", partial(separated, 1.0), partial(separated, 0.0), row=26,
    ),
    Claim(
        "no negatives across modalities (SLAP)", "the gap between modalities is smaller than by contrast",
        "distance of the centres of both halves", siamese, partial(across, SIMCLR, gap), row=209, higher=False,
    ),
]  # fmt: skip
