"""A scheduler's state in the middle of a run, as plain data and tensors over frames.

A multistep scheduler keeps what the last steps predicted. Whatever an instance has in its
`__dict__` that a fresh one, with its timesteps set, has not, is its state. Tensors shaped as the
latents that it steps are cut by frames, so that they can be shared out anew; all else is the same
on every rank. Where frames are at steps of their own, each group of them has such a state, and
their tensors lie side by side in one over all frames.

Legend: F frames, C channels, H height, W width (of latents)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from video_infinity.errors import ModelError
from video_infinity.staggered import Staggered

_FRAMES, _TENSOR, _TUPLE, _DICT = "frames", "tensor", "tuple", "dict"
_MOST_VALUES = 4096


def captured(
    scheduler: Any, fresh: Any, shape_FCHW: torch.Size
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The state of `scheduler` as (plain data for JSON, tensors [F, C, H, W] by name).

    fresh  one of the same settings that has taken no step
    Raises ModelError, naming the attribute, for state that is neither number, text nor tensor.
    """
    if isinstance(scheduler, Staggered):
        return _captured_groups(scheduler, fresh, shape_FCHW)
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}

    def named(tensor: torch.Tensor) -> str:
        name = names.setdefault(id(tensor), f"history.{len(names)}")
        tensors[name] = tensor
        return name

    before = vars(fresh)
    plain = {}
    for name, value in vars(scheduler).items():
        if name in before and _same(value, before[name]):
            continue
        try:
            plain[name] = _encoded(value, shape_FCHW, named)
        except TypeError as error:
            raise ModelError(
                f"{type(scheduler).__name__}.{name} holds {error}, which cannot be saved; give "
                "--checkpoint-every never, or choose another scheduler"
            ) from error
    return {"class": type(scheduler).__name__, "state": plain}, tensors


def _captured_groups(
    scheduler: Staggered, fresh: Staggered, shape_FCHW: torch.Size
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    plain: dict[str, Any] = {}
    joined: dict[str, torch.Tensor] = {}
    for group, begun in zip(scheduler.groups, fresh.groups, strict=True):
        places, own_shape = list(group.places), torch.Size((len(group.places), *shape_FCHW[1:]))
        state, tensors_FCHW = captured(group.scheduler, begun.scheduler, own_shape)
        plain[str(group.delay)] = state
        for name, own_FCHW in tensors_FCHW.items():
            whole_FCHW = joined.setdefault(name, own_FCHW.new_zeros(shape_FCHW))
            if own_FCHW.dtype != whole_FCHW.dtype:
                raise ModelError(
                    f"{type(group.scheduler).__name__} keeps tensors of {own_FCHW.dtype} and "
                    f"{whole_FCHW.dtype} for frames at different steps, which cannot be saved; "
                    "give --checkpoint-every never, or choose another scheduler"
                )
            if group.own:
                whole_FCHW[places] = own_FCHW
    return {"class": type(scheduler).__name__, "state": plain}, joined


def restore(
    scheduler: Any, plain: Mapping[str, Any], tensors_FCHW: Mapping[str, torch.Tensor]
) -> None:
    """Give a fresh scheduler a captured state, its tensors over frames as they are given.

    Raises ValueError if the state is another scheduler's.
    """
    if plain.get("class") != type(scheduler).__name__ or not isinstance(plain.get("state"), dict):
        raise ValueError(f"its scheduler is {plain.get('class')}, not {type(scheduler).__name__}")
    if isinstance(scheduler, Staggered):
        _restore_groups(scheduler, plain["state"], tensors_FCHW)
        return
    device = torch.as_tensor(scheduler.timesteps).device
    for name, value in plain["state"].items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
            raise ValueError(f"{name!r} is no attribute")
        if callable(getattr(scheduler, name, None)):
            raise ValueError(f"{name!r} is a method")
        try:
            setattr(scheduler, name, _decoded(value, tensors_FCHW, device))
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"the scheduler's {name} cannot be read: {error!r}") from error


def _restore_groups(
    scheduler: Staggered, states: Mapping[str, Any], tensors_FCHW: Mapping[str, torch.Tensor]
) -> None:
    if states.keys() != {str(group.delay) for group in scheduler.groups}:
        raise ValueError("its frames begin with other steps")
    for group in scheduler.groups:
        state, places = states[str(group.delay)], list(group.places)
        if not isinstance(state, dict):
            raise ValueError(f"its state of frames that begin with step {group.delay} is none")
        restore(group.scheduler, state, {name: x[places] for name, x in tensors_FCHW.items()})


def copy_of(scheduler: Any) -> Any:
    """A fresh scheduler to compare with later."""
    return copy.deepcopy(scheduler)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and torch.equal(one.cpu(), other.cpu())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if hasattr(one, "__array__"):
        return bool((one == other).all()) if one.shape == other.shape else False
    return bool(one == other)


def _encoded(value: Any, shape_FCHW: torch.Size, named: Callable[[torch.Tensor], str]) -> Any:
    if isinstance(value, torch.Tensor):
        if value.shape == shape_FCHW:
            return {_FRAMES: named(value)}
        if value.numel() > _MOST_VALUES:
            raise TypeError(f"a tensor of {list(value.shape)} over other than frames")
        dtype = str(value.dtype).removeprefix("torch.")
        return {_TENSOR: value.tolist(), "dtype": dtype}
    if isinstance(value, list | tuple):
        items = [_encoded(item, shape_FCHW, named) for item in value]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_DICT: {k: _encoded(v, shape_FCHW, named) for k, v in value.items()}}
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # NumPy's numbers
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__}")


def _decoded(value: Any, tensors_FCHW: Mapping[str, torch.Tensor], device: torch.device) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors_FCHW, device) for item in value]
    if not isinstance(value, dict):
        return value
    if _FRAMES in value:
        return tensors_FCHW[value[_FRAMES]]
    if _TENSOR in value:
        dtype = getattr(torch, value["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{value['dtype']!r} is no dtype")
        return torch.tensor(value[_TENSOR], dtype=dtype, device=device)
    if _TUPLE in value:
        return tuple(_decoded(item, tensors_FCHW, device) for item in value[_TUPLE])
    return {k: _decoded(v, tensors_FCHW, device) for k, v in value[_DICT].items()}
