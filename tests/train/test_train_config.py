"""What a configuration may say, and what a mistake in it is told."""

import re
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gradledger.errors import UserError
from gradledger.train.config import TrainConfig, load_config, validate_config


def test_every_default_is_the_founding_setting():
    config = load_config()
    assert (config.data.name, config.micro_batch_size, config.steps, config.effective_num_samples) == (
        "digits", 16, 4, 64,
    )  # fmt: skip
    assert config.tail == "keep"


def test_a_file_and_overrides_over_it(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("optimizer: {name: adamw, lr: 1e-2}\nepochs: 7\nmicro_batch_size: 8\neffective_batch_size: 32\n")
    config = load_config(path, ["optimizer.lr=3e-4", "seed=5"])
    assert config.optimizer.model_dump() == {"name": "adamw", "lr": 3e-4}
    assert (config.epochs, config.seed, config.num_micro_batches_per_window) == (7, 5, 4)


def test_the_written_form_reads_back_as_itself():
    config = load_config(overrides=["effective_batch_size=96", "optimizer=adam", "data.split_seed=3"])
    assert validate_config(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config


def test_a_size_that_is_left_open_is_settled_by_what_fits_and_can_be_shared_out():
    config = load_config(overrides=["micro_batch_size=auto", "effective_batch_size=60"])
    assert validate_config(yaml.safe_load(yaml.safe_dump(config.model_dump()))) == config
    assert config.model_dump()["micro_batch_size"] == "auto"
    for ranks, most, size, steps in ((1, 60, 60, 1), (1, 59, 30, 2), (1, 7, 6, 10), (2, 64, 30, 1), (4, 4, 3, 5)):
        settled = config.over_ranks(ranks).sized(most)
        assert (settled.micro_batch_size, settled.steps, settled.effective_num_samples) == (size, steps, 60)
    with pytest.raises(UserError, match=r"effective_batch_size \(60\) is not a multiple of 7 ranks: choose 56 or 63$"):
        config.over_ranks(7)


def test_an_override_of_steps_replaces_the_effective_batch_size_and_the_other_way_round(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("effective_batch_size: 64\n")
    assert load_config(path, ["steps=2"]).steps == 2
    path.write_text("steps: 2\n")
    assert load_config(path, ["effective_batch_size=64"]).num_micro_batches_per_window == 4


def test_another_name_forgets_the_arguments_of_the_first(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("optimizer: {name: sgd, lr: 0.1, momentum: 0.9}\n")
    assert load_config(path, ["optimizer.name=adamw"]).optimizer.arguments == {}
    assert load_config(path, ["optimizer.name=sgd", "optimizer.lr=1"]).optimizer.arguments == {"lr": 1, "momentum": 0.9}


def test_an_empty_file_is_every_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing\n")
    assert load_config(path) == TrainConfig()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", r"unknown key 'epoch' \(value 3\): did you mean 'epochs'\? The keys are name, output, data"),
        ("Micro-Batch-Size=3", "unknown key 'Micro-Batch-Size' .*did you mean 'micro_batch_size'"),
        ("zzz=3", r"unknown key 'zzz' \(value 3\): the nearest valid name is"),
        ("epochs=ten", "epochs is 'ten': it must be a whole number of at least 1, and at most 1000000000000"),
        ("epochs=true", "epochs is True: it must be a whole number"),
        ("epochs=2.0", "epochs is 2.0: it must be a whole number"),
        ("epochs=0", "epochs is 0: it must be a whole number of at least 1, and at most 1000000000000"),
        ("steps=0", "steps is 0: it must be a whole number of at least 1, and at most 1000000000000"),
        ("micro_batch_size=-1", "micro_batch_size is -1"),
        (
            "micro_batch_size=0",
            "micro_batch_size is 0: it must be a whole number of at least 1, and at most 1000000000000, or auto",
        ),
        ("micro_batch_size=automatic", "micro_batch_size is 'automatic': it must be a whole number .* or auto"),
        ("micro_batch_size=auto", "micro_batch_size is auto, so effective_batch_size must say"),
        ("checkpointing=yes please", "checkpointing is 'yes please': it must be true or false"),
        ("offload=disk", "offload is 'disk': it must be cpu, or null"),
        ("compile=1", "compile is 1: it must be true or false"),
        ("effective_batch_size=63", r"effective_batch_size \(63\) is not a multiple of .* \(16\): choose 48 or 64"),
        ("effective_batch_size=7", r"\(16\): choose 16$"),
        ("tail=kept", "tail is 'kept': it must be one of keep, drop, carry; did you mean 'keep'"),
        ("precision=bf16", "precision is 'bf16': .*did you mean 'bf16-true'|did you mean 'bf16-mixed'"),
        ("clip_norm=0", "clip_norm is 0: it must be a number above 0, or null"),
        ("clip_norm=.nan", "clip_norm is nan: it must be a number above 0"),
        ("clip_norm=much", "clip_norm is 'much': it must be a number above 0"),
        ("device=gpu", "device is 'gpu': it must be auto, cpu, cuda, cuda:N or mps"),
        ("seed=-1", "seed is -1: it must be a whole number from 0"),
        ("name=a/b", "name is 'a/b': it must be text without a path separator"),
        ("name=..", "name is '..': it must be text without"),
        ("optimizer=3", "optimizer is 3: it must be a name, or a mapping with a name and its arguments"),
        ("optimizer.name=3", "optimizer.name is 3: it must be text"),
        ("epochs.x=3", r"--set 'epochs.x=3': 'epochs' has no parts; write --set epochs=value"),
        ("epochs", r"--set 'epochs' has no key and value: write --set key=value"),
        ("epochs=[3", r"--set 'epochs=\[3' is not YAML"),
    ],
)
def test_a_mistake_names_the_key_the_value_and_what_is_right(override, message):
    with pytest.raises(UserError, match=message):
        load_config(overrides=[override])


def test_several_mistakes_are_told_at_once():
    with pytest.raises(UserError, match=r"epochs is 'x'.*unknown key 'zz'"):
        load_config(overrides=["zz=2", "epochs=x"])


def test_both_ways_of_clipping_exclude_each_other():
    with pytest.raises(UserError, match=r"clip_norm \(1.0\) and clip_value \(0.5\) exclude each other"):
        load_config(overrides=["clip_norm=1", "clip_value=0.5"])


def test_two_ways_of_saying_the_window_are_one_too_many():
    with pytest.raises(UserError, match=r"steps \(4\) and effective_batch_size \(64\) say the same twice"):
        validate_config({"steps": 4, "effective_batch_size": 64})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "holds list .*: it must hold 'key: value' lines"),
        (b"epochs: [\n", "is not YAML"),
        (b"epochs: 1\nepochs: 2\n", "'epochs' is given twice"),
        (b"\xff\xfe\x00", "is not text"),
        (b"name: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        (b"1: 2\n", "unknown key '1'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["keep", "sgd", "cpu"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("name"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*TrainConfig.model_fields, "epoch", ""]) | st.text(max_size=8), _VALUES))
def test_whatever_is_given_there_is_a_configuration_or_a_clear_error(record):
    try:
        config = validate_config(record)
    except UserError:
        return
    assert validate_config(config.model_dump()) == config


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.yaml cannot be read: No such file or directory"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_mistake_is_told_before_torch_is_loaded():
    code = "import sys, gradledger.train.config as c; c.load_config(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: &a [*a]", "a value refers to itself"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]\n" for n in range(1, 12)),
            "it has more than 10,000 values",
        ),
        ("epochs: 0x" + "f" * 9000, "a whole number is too large"),
        (
            "epochs: 1000000000000000000000000000000",
            "it must be a whole number of at least 1, and at most 1000000000000",
        ),
        ("effective_batch_size: 1000000000000000000000000000000", "and at most 1000000000000"),
        ("[" * 3000, "is not YAML"),
        ("name: [" + "x, " * 5000 + "x]", "name is ['x', 'x', 'x', 'x', 'x', 'x', ...]: it must be"),
        ("# " + "x" * 300_000, "has more than the 262,144 bytes that are read of such a file"),
        ("num_threads: 1000000", "it must be a whole number from 1 to 1024, or null"),
        ("num_workers: 1000000", "it must be a whole number of processes, from 0 to 1024"),
    ],
)
def test_what_grows_without_end_is_refused_in_few_words(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load_config(path)
    assert len(str(caught.value)) < 2500
