"""Model folders made to do harm: by links to what is not theirs, and by code. And what ghost's own sources never do."""

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers

from ghost.calibration.tokens import tokenize
from ghost.checkpoint.source import open_checkpoint
from tests.costs import refusal

pytest_plugins = ["tests.refusals"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ROOT = Path(__file__).parent.parent
HUB = "models--owner--name"


@pytest.fixture
def model(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals / "model", tmp_path / "model")


def outside(model: Path, name: str) -> Path:
    """The file moved out of the folder, and a link to it in its place."""
    target = model.parent / f"outside-{name}"
    if (model / name).exists():
        (model / name).rename(target)
    else:
        target.write_text("secret")
    (model / name).symlink_to(target)
    return target


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "tokenizer.json", "LICENSE.txt", "notes"])
def test_a_link_out_of_the_model_folder_is_refused_and_nothing_is_published(
    name: str, model: Path, refused: Callable[..., str]
) -> None:
    target = outside(model, name)
    line = refused(model)
    assert f"{model / name} is a link to {target}, outside the model's folder" in line
    assert "put the file itself there if you trust it, or remove the link" in line


def test_a_link_by_way_of_links_and_parents_is_refused(model: Path) -> None:
    (model.parent / "secret").write_text("secret")
    (model / ".sub").mkdir()
    (model / ".sub/next").symlink_to("../../secret")
    (model / "tokenizer.model").symlink_to(".sub/next")
    assert "tokenizer.model is a link to" in refusal(open_checkpoint, model)


@pytest.mark.parametrize("name", ["sub/next", "sub/deeper/next", "linked/next"])
def test_a_link_in_a_folder_below_is_refused_too(name: str, model: Path) -> None:
    (model.parent / "secret").write_text("secret")
    (model / ".hidden").mkdir()
    (model / "linked").symlink_to(".hidden")
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).symlink_to(model.parent / "secret")
    assert f"{name} is a link to {model.parent / 'secret'}, outside" in refusal(open_checkpoint, model)


def test_a_folder_elsewhere_is_not_looked_into_by_a_link(model: Path) -> None:
    (model.parent / "elsewhere").mkdir()
    (model / "additional_chat_templates").symlink_to("../elsewhere")
    assert "additional_chat_templates is a link to" in refusal(open_checkpoint, model)


def test_links_in_circles_come_to_an_end(model: Path) -> None:
    for name, target in (("a", "b"), ("b", "a")):
        (model / name).mkdir()
        for number in range(4):
            (model / name / str(number)).symlink_to(f"../{target}")
    (model / "self").symlink_to(".")
    assert open_checkpoint(model).layers == 3


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(model: Path) -> None:
    (model / WEIGHTS).rename(model / "1.safetensors")
    outside(model, "1.safetensors")
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors"}}))
    assert "1.safetensors is a link to" in refusal(open_checkpoint, model)


def test_links_within_the_folder_and_to_the_folder_are_fine(model: Path) -> None:
    (model / "real").mkdir()
    (model / WEIGHTS).rename(model / "real/weights")
    (model / WEIGHTS).symlink_to("real/weights")
    (model.parent / "alias").symlink_to(model)
    assert open_checkpoint(model.parent / "alias").layers == 3


def as_hub_cache(model: Path, cache: Path, *, shared: bool) -> Path:
    """The folder as the hub's cache has it: a snapshot of links to blobs, which are links themselves where shared."""
    repository, snapshot = cache / HUB, cache / HUB / "snapshots/0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (cache / "blobs").mkdir()
    for path in model.iterdir():
        blob = repository / "blobs" / f"of-{path.name}"
        path.rename(cache / "blobs" / blob.name if shared else blob)
        if shared:
            blob.symlink_to(f"../../blobs/{blob.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


@pytest.mark.parametrize("shared", [False, True])
def test_the_links_of_the_hub_cache_are_followed(shared: bool, model: Path, tmp_path: Path) -> None:
    digest = open_checkpoint(model).digest
    assert open_checkpoint(as_hub_cache(model, tmp_path / "hub", shared=shared)).digest == digest


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_in_a_snapshot_is_a_model_as_the_snapshot_is(shared: bool, model: Path, tmp_path: Path) -> None:
    digest = open_checkpoint(model).digest
    snapshot = as_hub_cache(model, tmp_path / "hub", shared=shared)
    below = snapshot / "some/where"
    below.mkdir(parents=True)
    for path in [path for path in snapshot.iterdir() if path.is_symlink()]:
        (below / path.name).symlink_to(Path("../..") / path.readlink())
    assert open_checkpoint(below).digest == digest
    (below / "tokenizer.model").symlink_to("../../../../refs")
    assert "tokenizer.model is a link to" in refusal(open_checkpoint, below)


@pytest.mark.parametrize("target", ["../../../secret", "../../refs", "../../../models--other--name/blobs/x"])
def test_a_snapshot_may_link_to_blobs_alone(target: str, model: Path, tmp_path: Path) -> None:
    snapshot = as_hub_cache(model, tmp_path / "hub", shared=False)
    (snapshot / "tokenizer.model").symlink_to(target)
    assert "tokenizer.model is a link to" in refusal(open_checkpoint, snapshot)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "sub/x", "", "a\0b", "\x1b[31m"])
def test_a_shard_name_that_is_no_file_beside_the_index_is_refused(
    name: str, model: Path, refused: Callable[..., str]
) -> None:
    (model.parent / "x").write_bytes((model / WEIGHTS).read_bytes())
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    line = refused(model)
    assert "which is no file beside it" in line or f"is missing in {model}" in line
    assert line.isprintable()


EVIL = """
from pathlib import Path
from transformers import Mamba2Config, PreTrainedTokenizerFast
Path({trace!r}).touch()
class Config(Mamba2Config): pass
class Tokenizer(PreTrainedTokenizerFast): pass
"""


def test_code_that_comes_with_a_model_is_neither_run_nor_published(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    (model / "evil.py").write_text(EVIL.format(trace=str(trace)))
    for name, auto_map in [(CONFIG, {"AutoConfig": "evil.Config"}),
                           ("tokenizer_config.json", {"AutoTokenizer": [None, "evil.Tokenizer"]})]:  # fmt: skip
        fields = json.loads((model / name).read_text()) | {"auto_map": auto_map}
        (model / name).write_text(json.dumps(fields))
    checkpoint = open_checkpoint(model)
    assert len(tokenize(model, "state token model")) and not trace.exists()
    assert "auto_map" not in checkpoint.raw_config
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    transformers.AutoConfig.from_pretrained(model, trust_remote_code=True)
    assert trace.exists(), "the code was harmless: this test showed nothing"


def test_a_model_type_that_only_its_own_code_knows_is_refused(model: Path) -> None:
    fields = json.loads((model / CONFIG).read_text())
    (model / CONFIG).write_text(json.dumps(fields | {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}))
    assert "model_type 'evil' is none that ghost" in refusal(open_checkpoint, model)


PACKAGES = ("artifacts", "ghost", "tasks", "flows")
"""Not bench, which reads models of its own making alone."""
UNSAFE = ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pickle.load", "pickle.loads",
          "pickle.Unpickler", "marshal.loads", "joblib.load", "eval", "exec", "os.system")  # fmt: skip
REQUIRED = {"torch.load": ("weights_only", True), "from_pretrained": ("trust_remote_code", False)}


def trespasses(source: str) -> Iterator[str]:
    """Calls that load more than data: unsafe ones by name, and those without the argument that makes them safe."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {each.arg: each.value.value for each in call.keywords if isinstance(each.value, ast.Constant)}
        needed, value = REQUIRED.get(name) or REQUIRED.get(name.rpartition(".")[-1]) or ("", None)
        if name in UNSAFE or (needed and given.get(needed) is not value) or given.get("trust_remote_code"):
            yield f"line {call.lineno}: {ast.unparse(call)}"


@pytest.mark.parametrize(
    "source",
    ["yaml.load(text)", "pickle.loads(data)", "torch.load(path)", "torch.load(path, weights_only=False)",
     "AutoConfig.from_pretrained(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)",
     "load_dataset(x, trust_remote_code=True)"],
)  # fmt: skip
def test_the_search_finds_trespasses(source: str) -> None:
    assert list(trespasses(source))


def test_no_source_of_ghost_loads_more_than_data() -> None:
    sources = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = {str(path.relative_to(ROOT)): list(trespasses(path.read_text())) for path in sources}
    assert len(sources) > 50 and {name: lines for name, lines in found.items() if lines} == {}
