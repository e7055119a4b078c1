"""How a model's scores change along a direction, forward: a second pass like the first, at half the price of a pass backward.

On a CPU the backward pass of a convolution takes about four times its forward pass; along a direction it takes one more forward pass, without
bias. And the second pass may be of those images only whose derivative anybody asks for.
"""

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from ddrs.models.layout import python_state
from ddrs.models.running import Scored, device_of

AFFINE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # in eval mode, where they are affine
# what moves or averages values: it does the same to a change of them
LINEAR = (nn.Identity, nn.Flatten, nn.Unflatten, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Dropout2d)
LINEAR_FUNCTIONS = (torch.flatten, functional.avg_pool2d, functional.adaptive_avg_pool2d, operator.getitem)
LINEAR_METHODS = ("flatten", "view", "reshape", "mean", "permute", "contiguous", "size")
ADDED, SUBTRACTED = (operator.add, operator.iadd, torch.add), (operator.sub, torch.sub)
SCALED = (operator.mul, operator.truediv, torch.mul, torch.div)
RELU = (torch.relu, functional.relu)


class Tangents:
    """A model that is traced: its scores of a batch, and then their derivatives along a direction in the space of images."""

    def __init__(self, first: fx.GraphModule, second: fx.GraphModule):
        self._first, self._second = first, second
        self._kept: tuple[torch.Tensor, ...] = ()

    @torch.no_grad()
    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Of images (batch, ...), (batch, classes); what the derivatives need of the pass is kept."""
        found, self._kept = self._first(images)
        return found

    @torch.no_grad()
    def along(self, direction: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """d/dt scores(images + t * direction) at t = 0, of the last images; of those `rows` (k,) only, (k, classes), if given.

        direction: (batch, ...), or (k, ...) of the rows.
        """
        kept = self._kept if rows is None else [one[rows] for one in self._kept]
        return self._second(direction, *kept)


def tangents_of(model: nn.Module, shape: tuple[int, ...]) -> Tangents | None:
    """The model, in eval mode, with BatchNorm folded; None unless torch.fx can trace it, all its operations have a rule here, and on a probe its
    scores are the model's to rounding, and its derivatives, in float64, those of the model's backward pass.

    shape: of one image. The model is copied, and left as it was.
    """
    if isinstance(model, Scored):
        if not isinstance(model.model, nn.Module):
            return None
        model = model.model
    images, direction = torch.rand(2, 5, *shape, generator=torch.Generator().manual_seed(0)).to(device_of(model))
    try:
        twin = copy.deepcopy(model)
        if _moves(twin, lambda: fx.symbolic_trace(twin)):
            return None  # a trace would leave out what its forward pass remembers
        made, exact = _traced(model), twin.double()
        with torch.no_grad():
            expected = model(images)
        alike = _apart(made.scores(images), expected) <= 1e-4 and _is_derivative(_traced(exact), exact, images.double(), direction.double())
    except Exception:  # torch.fx raises many kinds for what it can't trace
        return None
    return made if alike else None


def _moves(model: nn.Module, call: Callable[[], object]) -> bool:
    """Whether a call changes attributes of the model's modules."""
    before = python_state(model)
    call()
    return python_state(model) != before


def _is_derivative(made: Tangents, model: nn.Module, images: torch.Tensor, direction: torch.Tensor) -> bool:
    """Whether a sum of the scores' derivatives, of all images and of some, is that of the model's backward pass.

    All in float64, where no image is on a kink.
    """
    with torch.enable_grad():
        images.requires_grad_(True)
        scores = model(images)
        weights = torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores)
        (gradient,) = torch.autograd.grad((weights * scores).sum(), images)
    expected, rows = (gradient * direction).flatten(1).sum(1), torch.tensor([3, 1], device=images.device)
    made.scores(images.detach())
    found, of_rows = (weights * made.along(direction)).sum(1), (weights[rows] * made.along(direction[rows], rows)).sum(1)
    return _apart(found, expected) <= 1e-6 and _apart(of_rows, expected[rows]) <= 1e-6


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    return float((one - other).abs().max() / other.abs().max())


def _traced(model: nn.Module) -> Tangents:
    """ValueError for an operation that has no rule here."""
    folded: Any = fuse(model).requires_grad_(False)
    modules, first, second = dict(folded.named_modules()), fx.Graph(), fx.Graph()
    owner: Any = nn.Module()
    owner.first, owner.twins = folded, nn.ModuleDict()
    values: dict[Any, fx.Node] = {}  # of the first pass
    changes: dict[Any, fx.Node] = {}  # of the second; a node that does not depend on the images is not in it
    kept: list[fx.Node] = []
    direction = second.placeholder("direction")

    def keep(value: fx.Node) -> fx.Node:
        kept.append(value)
        with second.inserting_after(list(second.find_nodes(op="placeholder"))[-1]):
            return second.placeholder(f"kept_{len(kept)}")

    def twin(module: nn.Module, change: fx.Node) -> fx.Node:
        """The module without what it adds."""
        name = str(len(owner.twins))
        owner.twins[name] = _without_bias(module)
        return second.call_module(f"twins.{name}", (change,))

    for node in folded.graph.nodes:
        if node.op == "output":
            break
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.MaxPool2d):
            if module.return_indices:
                raise ValueError(str(node))
            options = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")}
            both = first.call_function(functional.max_pool2d_with_indices, (values[node.args[0]],), options)
            values[node] = first.call_function(operator.getitem, (both, 0))
            places = keep(first.call_function(operator.getitem, (both, 1)))
            changes[node] = second.call_function(_at_places, (changes[node.args[0]], places))
            continue
        values[node] = first.node_copy(node, values.__getitem__)
        if node.op in ("call_module", "get_attr"):
            values[node].target = f"first.{node.target}"
        if node.op == "placeholder":
            changes[node] = direction
        moved = [one for one in node.all_input_nodes if one in changes]
        if not moved:
            continue
        name = node.target if node.op == "call_method" else ""
        if isinstance(module, (*AFFINE, *NORMS)):
            changes[node] = twin(module, changes[moved[0]])
        elif isinstance(module, nn.ReLU) or node.target in RELU or name in ("relu", "relu_"):
            changes[node] = second.call_function(torch.ops.aten.threshold_backward, (changes[moved[0]], keep(values[node]), 0))
        elif isinstance(module, LINEAR) or node.target in LINEAR_FUNCTIONS or name in LINEAR_METHODS:
            if not isinstance(node.args[0], fx.Node) or node.args[0] not in changes:
                raise ValueError(str(node))
            changes[node] = second.node_copy(node, changes.__getitem__)
            if module is not None:
                changes[node].target = f"first.{node.target}"
        elif node.target in (*ADDED, *SUBTRACTED, *SCALED) and not node.kwargs:
            changes[node] = _arithmetic(second, node, changes)
        else:
            raise ValueError(str(node))
    (returned,) = node.args
    first.output((values[returned], tuple(kept)))
    second.output(changes[returned])
    return Tangents(fx.GraphModule(owner, first), fx.GraphModule(owner, second))


def _arithmetic(second: fx.Graph, node: fx.Node, changes: dict[Any, fx.Node]) -> Any:
    """Sums and differences, and products with and quotients by what does not depend on the images. ValueError for other products."""
    one, other = node.args
    of_one, of_other = (changes.get(each) if isinstance(each, fx.Node) else None for each in (one, other))
    if node.target in ADDED or node.target in SUBTRACTED:
        if of_one is not None and of_other is not None:
            return second.call_function(operator.add if node.target in ADDED else operator.sub, (of_one, of_other))
        if of_one is not None:
            return of_one
        return of_other if node.target in ADDED else second.call_function(operator.neg, (of_other,))
    scale = other if of_one is not None else one
    if (of_one is not None and of_other is not None) or (of_one is None and node.target in (operator.truediv, torch.div)):
        raise ValueError(str(node))
    if isinstance(scale, fx.Node):
        if scale.op != "get_attr":
            raise ValueError(str(node))
        scale = second.get_attr(f"first.{scale.target}")
    return second.call_function(operator.mul if node.target in (operator.mul, torch.mul) else operator.truediv, (of_one or of_other, scale))


def _without_bias(module: nn.Module) -> nn.Module:
    """A convolution, linear layer or BatchNorm that shares the weights of another, but adds nothing."""
    made = copy.copy(module)
    made._parameters = {**module._parameters, "bias": None}
    if isinstance(module, NORMS):
        if module.running_mean is None or module.running_var is None:
            raise ValueError(str(module))
        made._buffers = {**module._buffers, "running_mean": torch.zeros_like(module.running_mean)}
    return made


def _at_places(change: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The values of a map (batch, C, H, W) at the places of its maxima (batch, C, h, w), as max-pooling numbers them."""
    return change.flatten(2).gather(2, places.flatten(2)).view_as(places)
