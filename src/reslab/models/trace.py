"""Which module computed each node of the autograd graph, and the names of residual additions that follow from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from reslab.models.graph import Addition, Graph


class Trace(TorchFunctionMode):
    """Follows one forward pass: modules by hooks that are gone afterwards, operations by one of torch's modes.

    Args:
        model: whose modules are named.

    Attributes:
        running: names of the modules that are running now, the innermost last; "" is the model itself.
        where: node to the name of the innermost module that was running.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = {
            module: re.sub(r"_orig_mod\.?", "", name) for name, module in model.named_modules() if module is not model
        }
        self.running = [""]
        self.where: dict[Node, str] = {}

    @contextmanager
    def following(self) -> Iterator[Self]:
        """While this is open, whatever is computed is seen."""
        with ExitStack() as stack:
            for module, name in self.modules.items():
                stack.callback(module.register_forward_pre_hook(partial(self._enter, name)).remove)
                stack.callback(module.register_forward_hook(self.leave, always_call=True).remove)
            stack.enter_context(self)
            yield self

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        self.running.append(name)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """After a module has run, or failed."""
        if len(self.running) > 1:
            self.running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(result)
        return result

    def note(self, result: Any) -> None:
        """Notes where an operation's results were computed; one that returns its argument has not made it."""
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, Tensor) and part.grad_fn is not None:
                self.where.setdefault(part.grad_fn, self.running[-1])

    def complete(self, graph: Graph) -> None:
        """Gives nodes inside a function that was seen as one operation the module of its result."""
        for place in reversed(range(len(graph.nodes))):
            if graph.users[place] and graph.nodes[place] not in self.where:
                user = graph.nodes[graph.users[place][-1].consumer]
                self.where[graph.nodes[place]] = self.where.get(user, "")

    def names_of(self, graph: Graph, additions: Sequence[Addition]) -> list[str]:
        """Return a name for each addition: the module that holds all of it, and where it holds two the branch's part.

        Example:
            ``layer1.0`` in a ResNet; ``blocks.0.attn`` and ``blocks.0.mlp`` in a transformer.
        """
        paths = [self._common_path(graph, addition) for addition in additions]
        counts = Counter(paths)
        names = [
            path if counts[path] == 1 else ".".join(filter(None, [path, self._main_part(graph, addition, path)]))
            for path, addition in zip(paths, additions, strict=True)
        ]
        repeated, seen, labels = Counter(names), Counter[str](), []
        for name in names:
            seen[name] += 1
            label = name or "addition"
            labels.append(label if repeated[name] == 1 else f"{label}#{seen[name]}")
        return labels

    def _common_path(self, graph: Graph, addition: Addition) -> str:
        """The innermost module whose forward pass holds the addition and everything on both sides of it."""
        nodes = [graph.nodes[place] for place in (addition.node, *addition.branch, *addition.shortcut)]
        paths = [self.where[node].split(".") for node in nodes if node in self.where]
        shared: list[str] = []
        for parts in zip(*paths, strict=False):
            if len(set(parts)) > 1:
                break
            shared.append(parts[0])
        return ".".join(shared)

    def _main_part(self, graph: Graph, addition: Addition, path: str) -> str:
        """The part of the module that holds most of the branch's weights."""
        depth = len(path.split(".")) if path else 0
        places = [place for place in addition.branch if graph.is_weighted(place)]
        paths = [self.where.get(graph.nodes[place], "").split(".") for place in places]
        parts = Counter(path[depth] for path in paths if len(path) > depth and path[depth])
        return parts.most_common(1)[0][0] if parts else ""
