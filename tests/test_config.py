import pytest

from hjepa.config import dump, load, validate
from hjepa.errors import UserError

ONE = {"levels": {1: {"stride": 1, "window": 1, "encoder": {"kind": "conv"}}}}


def test_files_stack_and_overrides_win(tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("train: {steps: 7}\nlevels: {2: {dim: 20}}\n")
    config = load(["tiny", over], ["levels.2.stride=8", "train.lr=1e-4"])
    assert (config.train.steps, config.train.lr) == (7, 1e-4)
    assert (config.levels[1].dim, config.levels[1].stride) == (20, 8)
    assert config.levels[0].dim == load(["tiny"]).levels[0].dim


def test_a_dumped_configuration_loads_equal(tmp_path):
    config = load(["tiny"], ["run=here", "seed=3"])
    path = tmp_path / "config.yaml"
    path.write_text(dump(config))
    assert load([path]) == config


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_is_configuration_alone(depth):
    tree = {"each_level": {"dim": 8}, "levels": {k: {"encoder": {"kind": "mean"}} for k in range(2, depth + 1)}}
    tree["levels"][1] = {"encoder": {"kind": "vit"}}
    assert len(validate(tree, "here").levels) == depth


def test_null_removes_a_level():
    assert len(load(["tiny"], ["levels.3=null"]).levels) == 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.stepz=3"], ["train.stepz", "did you mean 'steps'"]),
        (["levels.2.strid=3"], ["levels.2.strid", "'stride'"]),
        (["levels.1.objective.weights.sigrag=1"], ["levels.1.objective.weights.sigrag", "'sigreg'"]),
        (["sead=3"], ["'sead'", "'seed'"]),
        (["levels.2.stride=0"], ["levels.2.stride", "0", "greater than or equal to 1"]),
        (["levels.1.encoder.kind=mean"], ["levels.1.encoder.kind", "vit, conv"]),
        (["levels.2.encoder.kind=vit"], ["levels.2.encoder.kind", "attention"]),
        (["levels.9.dim=4"], ["without gaps"]),
        (["data.batch=10", "train.accumulate=4"], ["data.batch=10", "train.accumulate=4"]),
        (["train.regime=jont"], ["train.regime", "joint"]),
        (["nonsense"], ["key=value"]),
    ],
)
def test_a_mistake_is_named_with_what_would_be_legal(overrides, words):
    with pytest.raises(UserError) as error:
        load(["tiny"], overrides)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "word"), [("a: [", "not YAML"), ("- 1", "mapping"), ("seed: 1", "no levels")])
def test_files_that_are_no_configuration_are_refused(tmp_path, text, word):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=word):
        load([path])


def test_a_missing_file_names_the_presets():
    with pytest.raises(UserError, match="tiny"):
        load(["tinny"])
