"""The typed configuration of a run: YAML files that stack, dotted overrides, unknown keys refused.

`load(["tiny", "mine.yaml"], ["levels.2.stride=8"])` stacks files from left to right (a mapping merges into a mapping,
anything else replaces), applies the overrides, spreads ``each_level`` under every entry of ``levels`` and validates.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hjepa.errors import UserError, nearest

PRESETS = Path(__file__).parent / "configs"
FRAME_ENCODERS = ("vit", "conv")
STATE_ENCODERS = ("last", "mean", "attention", "convolution")

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


ENCODER_DEFAULTS: dict[str, dict[str, int]] = {
    "vit": {"width": 128, "depth": 4, "heads": 4, "patch": 8},
    "conv": {"width": 128},
    **{kind: {"width": 128, "depth": 1} for kind in STATE_ENCODERS},
}


class EncoderConfig(Strict):
    """Level 1: ``vit`` or ``conv`` over frames. Above: how the window is pooled before a pointwise MLP of ``depth``
    hidden layers (0: a linear map). What a kind does not use is 0, and refused if set."""

    kind: Literal["vit", "conv", "last", "mean", "attention", "convolution"] = "conv"
    width: Natural = 0
    depth: Natural = 0
    heads: Natural = 0
    patch: Natural = 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        used = ENCODER_DEFAULTS.get(given.get("kind", "conv")) if isinstance(given, dict) else None
        if used is None:
            return given
        unused = [key for key in ("width", "depth", "heads", "patch") if given.get(key) and key not in used]
        if unused:
            raise ValueError(f"{given.get('kind', 'conv')!r} has no {unused[0]}; legal: {', '.join(used)}")
        return {**used, **given}


class PredictorConfig(Strict):
    """A causal transformer over the level's own sequence."""

    width: Positive = 128
    depth: Positive = 2
    heads: Positive = 4


class LatentConfig(Strict):
    """z: what the past and the action do not determine. ``free_nats``: information that costs nothing, per step."""

    kind: Literal["none", "gaussian"] = "gaussian"
    dim: Positive = 4
    free_nats: Weight = 0.0


class TermWeights(Strict):
    """Weight of each term of a level's objective; a term of weight 0 is not computed."""

    prediction: Weight = 1.0
    rollout: Weight = 1.0
    sigreg: Weight = 0.0
    variance: Weight = 0.0
    covariance: Weight = 0.0
    time_variance: Weight = 0.0
    time_covariance: Weight = 0.0
    invariance: Weight = 0.0
    inverse: Weight = 0.0
    straightness: Weight = 0.0
    information: Weight = 0.0


class ObjectiveConfig(Strict):
    """One level's objective. See hjepa/objective for the terms."""

    energy: Literal["l2", "l1", "cosine"] = "l2"
    target: Literal["online", "stopgrad", "ema"] = "online"
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    rollout_steps: Positive = 4
    sigreg_over: Literal["step", "clip"] = "clip"
    directions: Positive = 128
    std: Annotated[float, Field(gt=0)] = 1.0
    time_std: Annotated[float, Field(gt=0)] = 0.5
    weights: TermWeights = TermWeights()


class LevelConfig(Strict):
    """One JEPA. ``length``: states in its training sequence; ``dim``: numbers a state; ``action_dim``: numbers a
    macro-action (levels above the first, where the store has actions). ``noise``: standard deviation of Gaussian noise
    on the states that the level reads while it trains, from the level below and as context of its predictor: what keeps
    upper levels, which see few independent sequences, from learning them by heart."""

    stride: Positive = 4
    window: Positive = 4
    length: Annotated[int, Field(ge=2)] = 8
    dim: Positive = 64
    action_dim: Positive = 4
    noise: Weight = 0.0
    encoder: EncoderConfig = EncoderConfig()
    predictor: PredictorConfig = PredictorConfig()
    latent: LatentConfig = LatentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()


class WorldConfig(Strict):
    """What the model was trained on, taken from the store and saved with the weights.

    ``action_*`` are per component, in the store's units; empty where it has no actions.
    """

    height: Positive
    width: Positive
    channels: Positive = 3
    rate_hz: Annotated[float, Field(gt=0)]
    crop: str = "center"
    action_mean: tuple[float, ...] = ()
    action_std: tuple[float, ...] = ()
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()

    @property
    def action_dim(self) -> int:
        return len(self.action_mean)


class HierarchyConfig(Strict):
    """Everything needed to build the model: the world and its levels, level 1 first."""

    world: WorldConfig
    levels: tuple[LevelConfig, ...]


class DataConfig(Strict):
    """Which clips are read. ``batch`` is the global batch: all processes and accumulated steps together. ``views``: how
    many augmented copies (flip, shift) of each episode a latent store of level 1 holds; 1: the episodes as they are."""

    store: str = ""
    batch: Positive = 16
    held_back: Annotated[float, Field(ge=0, lt=1)] = 0.2
    hold: Literal["tail", "episodes"] = "tail"
    flip: bool = False
    shift: Natural = 0
    views: Positive = 1
    workers: Natural = 0


class TrainConfig(Strict):
    """``steps`` counts optimiser steps of each phase: one phase (joint), one a level (levelwise), both (staged)."""

    regime: Literal["joint", "levelwise", "staged"] = "joint"
    steps: Positive = 1000
    lr: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Weight = 1e-3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    precision: Literal["no", "bf16"] = "no"
    accumulate: Positive = 1
    compile: bool = False
    threads: Natural = 0
    log_every: Positive = 20
    save_every: Positive = 200


class RunConfig(Strict):
    """A whole run; ``hjepa train`` writes it, resolved, to config.yaml in the run directory."""

    run: str = ""
    seed: int = 0
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    levels: tuple[LevelConfig, ...]
    world: WorldConfig | None = None

    @model_validator(mode="after")
    def _levels_fit(self) -> RunConfig:
        for number, level in enumerate(self.levels, 1):
            legal = FRAME_ENCODERS if number == 1 else STATE_ENCODERS
            if level.encoder.kind not in legal:
                raise ValueError(f"levels.{number}.encoder.kind is {level.encoder.kind!r}; legal: {', '.join(legal)}")
        if self.data.batch % self.train.accumulate:
            raise ValueError(f"data.batch={self.data.batch} is no multiple of train.accumulate={self.train.accumulate}")
        return self

    def hierarchy(self) -> HierarchyConfig:
        """The model's part; the world must be known.

        Raises:
            ValueError: the run has not met its store yet.
        """
        if self.world is None:
            raise ValueError("the world is taken from the store when training starts")
        return HierarchyConfig(world=self.world, levels=self.levels)


def load(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Stack presets and YAML files, apply ``key=value`` overrides, validate.

    Raises:
        UserError: a file that is missing or no YAML mapping, an unknown key, an impossible value; one line each.
    """
    tree: dict[str, Any] = {}
    for file in files:
        tree = _merge(tree, _read(file))
    for override in overrides:
        tree = _merge(tree, _parse(override))
    return validate(tree, " + ".join(str(f) for f in files))


def validate(tree: dict[str, Any], where: str) -> RunConfig:
    """A RunConfig from plain data; errors name the key, the value and what would be legal."""
    tree = dict(tree)
    every, levels = tree.pop("each_level", None) or {}, tree.get("levels") or {}
    if isinstance(levels, dict):
        levels = {number: level for number, level in levels.items() if level is not None}  # null removes a level
        if set(levels) != set(range(1, len(levels) + 1)):
            got = ", ".join(map(str, levels))
            raise UserError(f"{where}: levels are numbered 1, 2, 3, ... without gaps, got {got}")
        levels = [levels[number] for number in sorted(levels)]
    if not levels:
        raise UserError(f"{where}: no levels; legal: levels.1, levels.2, ... (or start from a preset: {_presets()})")
    tree["levels"] = [_merge(every, level or {}) for level in levels]
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None


def dump(config: BaseModel) -> str:
    """YAML that `load` reads back to an equal configuration."""
    tree = config.model_dump(mode="json")
    if "run" in tree:
        tree["levels"] = {number: level for number, level in enumerate(tree["levels"], 1)}
    return yaml.safe_dump(tree, sort_keys=False)


def _read(file: str | Path) -> dict[str, Any]:
    preset = PRESETS / f"{file}.yaml"
    path = preset if preset.is_file() else Path(file)
    if not path.is_file():
        raise UserError(f"{file}: no such configuration; legal: a YAML file or a preset ({_presets()})")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys, this is {type(tree).__name__}")
    return tree


def _presets() -> str:
    return ", ".join(sorted(p.stem for p in PRESETS.glob("*.yaml")))


def _parse(override: str) -> dict[str, Any]:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"{override!r}: an override is key=value, for example train.steps=500")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{override!r}: the value is not YAML") from None
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # YAML 1.1 reads 1e-3 as a word
    for part in reversed(key.split(".")):
        value = {int(part) if part.isdigit() else part: value}
    return dict(value)


def _merge(under: Any, over: Any) -> Any:
    if isinstance(under, dict) and isinstance(over, dict):
        return {**under, **{k: _merge(under.get(k), v) for k, v in over.items()}}
    return over


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    place = [part + 1 if isinstance(part, int) else part for part in first["loc"]]  # level 1 is list entry 0
    key = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(str(place[-1]), _keys(first['loc'][:-1]))}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key} = {first['input']!r}: {message}" if key else message


def _keys(loc: Iterable[int | str]) -> Iterable[str]:
    """The legal keys at a place in the tree."""
    model: Any = RunConfig
    for part in loc:
        if isinstance(part, int):
            continue
        kinds = [model.model_fields[part].annotation]
        while not (isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel)):
            kinds = [k for kind in kinds for k in get_args(kind) if k not in (type(None), Ellipsis)]
        model = kinds[0]
    extra = ["each_level"] if model is RunConfig else []
    return [*model.model_fields, *extra]
