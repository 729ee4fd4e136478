"""Low-rank layers in the place of those of a model: for training from scratch, or as a plan says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from onnxlr.errors import UsageError
from onnxlr.schemes.base import Layer
from onnxlr.schemes.registry import by_name
from onnxlr.training.layers.chain import LowRankConv
from onnxlr.training.layers.geometry import AnyConv, geometry_of
from onnxlr.training.layers.solve import factors
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.scopes import scopes
from onnxlr_passes.sites import Site, locate

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from onnxlr.planning.plan import Choice, Plan
    from onnxlr_passes.chain import Stage

Rule = Callable[[str, nn.Module], nn.Module | None]
"""Given the name and the module: what takes its place, or None to leave it."""


def convert(module: nn.Module, rule: Rule) -> nn.Module:
    """Replace the modules of a model in place, by a rule; a module used twice is replaced by one module.

    What the rule gives is not looked into again. Returns ``module``, or what the rule makes of it itself.
    """
    made: dict[int, nn.Module | None] = {}
    root = _ruled("", module, rule, made)
    if root is not None:
        return root
    done: list[str] = []
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if not name or any(name.startswith(f"{other}.") for other in done):
            continue
        new = _ruled(name, child, rule, made)
        if new is not None:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, new)
            done.append(name)
    return module


def apply_plan(
    module: nn.Module, plan: Plan, model: onnx.ModelProto, names: Mapping[str, str] | None = None
) -> nn.Module:
    """Put the factors of a plan into the torch model that was exported, in place.

    The plan was made on ``model``, which torch exported from ``module``. A layer is found by the name of its weight,
    which the exporter takes from the module; ``names`` gives the module of a site where that name was lost, as by
    TorchScript where it folds BatchNorm.

    Raises
    ------
    UsageError
        When a layer of the plan cannot be found in ``module``, or cannot have that chain.
    """
    paths = dict(names or {})
    sites = _sites(model)
    wanted: dict[int, Choice] = {}  # by the module itself: one that is used twice has two names
    for choice in plan.choices:
        path = paths.get(choice.site) or _path(sites.get(choice.site), module)
        if path is None:
            raise UsageError(
                f"{choice.node}: no module of the torch model has its weight", "name the module of that site in names"
            )
        wanted[id(module.get_submodule(path))] = choice
    return convert(module, lambda _, child: _factorized(child, wanted[id(child)]) if id(child) in wanted else None)


def _ruled(name: str, module: nn.Module, rule: Rule, made: dict[int, nn.Module | None]) -> nn.Module | None:
    if id(module) not in made:
        made[id(module)] = rule(name, module)
    return made[id(module)]


def _sites(model: onnx.ModelProto) -> dict[str, Site]:
    """Return the sites of an exported model by key; one also by the output of the BatchNorm behind it.

    Preparing a model for a rewrite folds that BatchNorm, whose output the layer then gives.
    """
    found = {site.key: site for site in locate(model)[0]}
    for node in scopes(model)[0].nodes:
        if node.op_type == "BatchNormalization" and node.input[0] in found:
            found.setdefault(node.output[0], found[node.input[0]])
    return found


def _path(site: Site | None, module: nn.Module) -> str | None:
    """Return the path of the module whose weight a site has."""
    if site is None or not site.weight.tensor.name.endswith("weight"):
        return None
    path = site.weight.tensor.name.removesuffix("weight").rstrip(".")
    try:
        child = module.get_submodule(path)
    except AttributeError:
        return None
    shape = (site.out_channels, site.in_channels // site.geometry.group, *site.geometry.kernel)
    weight = getattr(child, "weight", None)
    return path if isinstance(weight, torch.Tensor) and tuple(weight.shape) == shape else None


def _factorized(module: nn.Module, choice: Choice) -> nn.Module:
    """Return the chain of a trained layer as a module."""
    scheme = by_name(choice.scheme)
    try:
        if isinstance(module, AnyConv):
            chain = factors(scheme, module, choice.ranks)
            made = LowRankConv(chain.steps, geometry_of(module), bias=module.bias is not None)
            return made.to(module.weight.dtype).load_chain(chain, module.bias)
        if isinstance(module, nn.Linear):
            layer = Layer(module.weight.detach().double().numpy(), Geometry.plain(()))
            return _linears(module, scheme.solver(layer).chain(choice.ranks).stages)
    except ValueError as error:
        raise UsageError(f"{choice.node}: {error}", "choose another scheme in the plan") from error
    raise UsageError(f"{choice.node}: a {type(module).__name__} is neither a convolution nor a Linear")


def _linears(module: nn.Linear, stages: tuple[Stage, ...]) -> nn.Sequential:
    weights = [torch.from_numpy(stage.weight).to(module.weight.dtype) for stage in stages]
    made = [nn.Linear(w.shape[1], w.shape[0], bias=False) for w in weights[:-1]]
    made.append(nn.Linear(weights[-1].shape[1], weights[-1].shape[0], bias=module.bias is not None))
    with torch.no_grad():
        for one, weight in zip(made, weights, strict=True):
            one.weight.data = weight.clone()
        if module.bias is not None:
            made[-1].bias.data = module.bias.detach().clone()
    return nn.Sequential(*made)
