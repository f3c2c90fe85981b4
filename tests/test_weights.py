"""Files of weights: what training code writes can be read, and errors come before any image is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from benchmark.api import Machine
from benchmark.cli.commands import main
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.vision import weights
from benchmark.vision.networks import resnet18, small_cnn
from benchmark.vision.weights import load_weights, read_state_dict

CPU = torch.device("cpu")
HEAD = r"fc\."
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    state = resnet18(4).state_dict()
    state["bn1.running_mean"].fill_(5)
    return state


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best": 0.5},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "model_state": lambda state: {"model_state": state, "epoch": 3},
    "data parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "lightning": lambda state: {"state_dict": prefixed(state, "model."), "pytorch-lightning_version": "2.0"},
    "backbone": lambda state: prefixed(state, "backbone.") | {"head.0.weight": torch.zeros(3, 3)},
    "deep": lambda state: {"model": prefixed(state, "module.encoder.") | {"module.predictor.weight": torch.zeros(2)}},
    "no last layer": lambda state: {name: value for name, value in state.items() if not name.startswith("fc.")},
    "unusual name": lambda state: {"teacher": state, "epoch": 3},
}


@pytest.mark.parametrize("how", WRAPPED)
@pytest.mark.parametrize("ending", ["pth", "ckpt"])
def test_what_training_code_writes_is_read(tmp_path: Path, state: State, how: str, ending: str) -> None:
    path, network = tmp_path / f"w.{ending}", resnet18(4)
    torch.save(WRAPPED[how](state), path)
    load_weights(network, path, HEAD)
    name = "layer4.1.conv2.weight"
    assert torch.equal(network.get_parameter(name), state[name])
    assert network.get_buffer("bn1.running_mean")[0] == 5


def test_safetensors_with_a_prefix(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source, network = small_cnn(), small_cnn()
    save_file(prefixed(source.state_dict(), "module."), tmp_path / "w.safetensors")
    load_weights(network, tmp_path / "w.safetensors", r"11\.")
    assert torch.equal(network.get_parameter("0.weight"), source.get_parameter("0.weight"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.zeros(1)}}, "it holds student, teacher$"),
        ({"epoch": 3, "loss": 0.1}, "must hold a state dict.*it holds epoch, loss$"),
        ([torch.zeros(2)], "it holds list$"),
        (torch.zeros(2), "it holds Tensor$"),
        ({"epoch": 3, "hyper_parameters": Path("x"), "state_dict": {}}, "Python objects .*pathlib.* torch.save"),
    ],
)
def test_what_holds_no_weights_is_said_to_hold(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=says) as caught:
        read_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_whole_model_is_named_and_how_to_save_its_weights(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(), tmp_path / "w.pth")
    says = (
        r"Python objects \(torchvision.models.resnet.BasicBlock, .*ResNet\); .* torch.save\(model.state_dict\(\), FILE"
    )
    with pytest.raises(ValueError, match=says):
        read_state_dict(tmp_path / "w.pth")


def test_two_encoders_in_one_file_are_refused(tmp_path: Path, state: State) -> None:
    torch.save({"state_dict": prefixed(state, "encoder_q.") | prefixed(state, "encoder_k.")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"several networks that fit \(encoder_q\., encoder_k\.\)"):
        load_weights(resnet18(4), tmp_path / "w.pth", HEAD)


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet34": (torchvision.models.resnet34, "the file fits torchvision's resnet34: set model=torchvision:resnet34$"),
    "few classes": (lambda: torchvision.models.mobilenet_v2(num_classes=7), "torchvision's mobilenet_v2: set model="),
    "ours": (lambda: resnet18(16), "this benchmark's own resnet18 of width 16$"),
    "unknown": (small_cnn, r"the file holds 16 tensors of 0\.0 million numbers: 0\.weight, 1\.weight, 1\.bias \.\.\.$"),
}


@pytest.mark.parametrize("which", OTHERS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_which_network_a_file_fits_is_said(tmp_path: Path, which: str, prefix: str) -> None:
    make, says = OTHERS[which]
    torch.save({"state_dict": prefixed(make().state_dict(), prefix)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not fit the model: .*" + says):
        load_weights(resnet18(4), tmp_path / "w.pth", HEAD, lambda name: f"model=torchvision:{name}")


def test_only_what_can_be_set_is_suggested(tmp_path: Path) -> None:
    discovery.discover()
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "r50.pth")
    suggestions = {
        "voc[backbone=resnet34,weights=r18.pth]": "resnet18: set backbone=resnet18",
        "voc0712[model=ssd300,backbone=vgg16,squash=300,min_size=0,max_size=1333,weights=r18.pth]": "resnet18",
        "cityscapes[model=fcn_resnet101,weights=r50.pth]": "resnet50: set model=fcn_resnet50",
        "cityscapes[model=fcn_resnet50,weights=r18.pth]": "resnet18",
    }
    for label, says in suggestions.items():
        spec = Spec.read("task", label)
        with pytest.raises(ValueError, match=f"the file fits torchvision's {says}$"):
            spec.plugin.build(Machine(CPU, tmp_path), spec.values)


def test_a_network_without_its_last_layer_is_recognised() -> None:
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    assert weights.find_torchvision_network(network.state_dict()) == "resnet18"


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("image_folder", {"root": "nowhere"}),
        ("tiny_imagenet", {}),
        ("cifar10", {}),
        ("oxford_pet", {}),
        ("voc", {"backbone": "resnet18", "root": "nowhere"}),
        ("coco", {"backbone": "resnet18", "root": "nowhere"}),
        ("coco", {"model": "faster_rcnn", "backbone": "resnet18", "root": "nowhere"}),
        ("voc0712", {"model": "ssd300", "backbone": "vgg16", "squash": 300, "min_size": 0, "max_size": 1333}),
        ("cityscapes", {"model": "fcn_resnet50", "root": "nowhere"}),
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_weights_are_looked_at_before_images(tmp_path: Path, task: str, settings: dict[str, Any], exists: bool) -> None:
    discovery.discover()
    if exists:
        torch.save({"odd": torch.zeros(2)}, tmp_path / "w.pth")
    spec = Spec.read("task", {task: settings | {"weights": "w.pth"}})
    says = "does not fit the model: .*the file holds 1 tensors" if exists else r"no such file: .*w\.pth"
    with pytest.raises(ValueError, match=rf"^weights=.*w\.pth: {says}"):
        spec.plugin.build(Machine(CPU, tmp_path), spec.values)


@pytest.mark.parametrize("command", ["run", "dry_run"])
def test_a_strategys_encoder_is_looked_at_before_images(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"odd": torch.zeros(2)}, tmp_path / "w.pth")
    words = ["strategies=[random,coreset[encoder=dino[weights=w.pth]]]", "tasks=[image_folder[root=nowhere]]"]
    words += [f"data={tmp_path}", f"out={tmp_path / 'out'}", "initial=5", "budget=5", "rounds=2", "validation=0"]
    monkeypatch.setattr("sys.argv", ["benchmark", "run", *words, f"dry_run={command == 'dry_run'}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    says = capsys.readouterr().err
    assert "w.pth: does not fit the model:" in says
    assert "nowhere" not in says.splitlines()[-1]


def test_a_probes_encoder_is_looked_at_before_images(tmp_path: Path) -> None:
    discovery.discover()
    settings = {"root": "nowhere", "model": "linear_probe", "encoder": "dino[weights=w.pth]", "pad": 0}
    spec = Spec.read("task", {"image_folder": settings})
    with pytest.raises(ValueError, match=r"no such file: .*w\.pth"):
        spec.plugin.build(Machine(CPU, tmp_path), spec.values)
