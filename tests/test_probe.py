"""Probes: tasks on the features of a frozen encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmark.api import Machine, View
from benchmark.conformance.checks import failures
from benchmark.encoders.patch_pca import patch_pca
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry
from benchmark.strategies.isal import isal
from benchmark.vision.classification import Classifier, Probe, Recipe, Split, missing_capabilities
from benchmark.vision.classification.augment import draw_epoch
from benchmark.vision.classification.probe import LabelledFeatures, LinearNetwork, standardise
from benchmark.vision.classification.training import training_losses
from benchmark.vision.encoding.encodings import InMemoryPool
from tests._cells import cell, run

discovery.discover()
CPU = Machine(torch.device("cpu"))
PROBE = "digits[dropout=0.0,encoder=patch_pca,epochs=60,model=linear_probe]"
MODELS = ("linear_probe", "svm_probe", "mlp_probe", "knn_probe")


def probe(model: str, epochs: int = 5) -> str:
    """The label of a task."""
    return f"digits[dropout=0.0,encoder=patch_pca,epochs={epochs},model={model}]"


def build_task(label: str = PROBE) -> Any:
    spec = Spec.read("task", label)
    return spec.plugin.build(CPU, spec.values)


@pytest.mark.parametrize("model", MODELS)
def test_probes_conform(model: str) -> None:
    spec = Spec.read("task", probe(model, 60 if model == "linear_probe" else 20))
    assert failures(spec.plugin, spec, CPU) == []


def test_it_is_softmax_regression_on_standardised_features() -> None:
    """Computes the logits by hand from the encoder's features; the fit is as good as scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    task = build_task()
    features_NE = torch.cat([part.global_NE for part in task.encode(None, np.arange(task.num_pool), "patch_pca")])
    standard_NE = (features_NE - features_NE.mean(0)) / features_NE.std(0, correction=0)
    model = task.fit(np.arange(300), 0)
    logits_NC = F.linear(standard_NE, model.head.weight, model.head.bias)
    torch.testing.assert_close(task.predict(model, np.arange(50)).scores_PC, logits_NC[:50].softmax(1))
    labels_N = task.labels(model, np.arange(task.num_pool)).numpy()
    twin = LogisticRegression(C=0.1, max_iter=500).fit(standard_NE[:300].numpy(), labels_N[:300])
    mine, theirs = (
        (logits_NC[300:].argmax(1).numpy() == labels_N[300:]).mean(),
        twin.score(standard_NE[300:], labels_N[300:]),
    )
    assert mine > 0.85
    assert mine == pytest.approx(theirs, abs=0.03)


def test_strategies_run_on_it_unchanged(tmp_path: Path) -> None:
    names = ["entropy", "coreset", "badge", "isal[depth=5,repeats=2]", "typiclust[encoder=patch_pca]"]
    strategy_names = [name for name in names if name.partition("[")[0] in registry.REGISTRY["strategy"]]
    events = run(
        [cell(name, rounds=2, task=PROBE.replace("epochs=60", "epochs=5")) for name in strategy_names], tmp_path
    )
    assert [len(event.record.bought) for event in events] == [20, 5] * len(strategy_names)  # type: ignore[union-attr]


@pytest.mark.parametrize("model", MODELS[1:])
def test_strategies_of_the_grid_run_on_every_head(model: str, tmp_path: Path) -> None:
    """Those of grid=self_supervised; a second run writes the same records."""
    names = ["random", "entropy", "margin", "coreset", "badge"]
    events = [
        run([cell(name, rounds=2, task=probe(model)) for name in names], tmp_path / folder)
        for folder in ("first", "again")
    ]
    records = [[(event.record.bought, event.record.scores) for event in part] for part in events]  # type: ignore[union-attr]
    assert records[0] == records[1]
    assert [len(bought) for bought, _ in records[0]] == [20, 5] * len(names)


def test_the_hinge_loss_by_hand() -> None:
    """Crammer and Singer: the largest score, with one added to all classes but the right one, less the right one's."""
    logits_NC = torch.tensor([[2.0, 0.5, 0.0], [2.0, 1.5, 0.0], [0.0, 3.0, 1.0]])
    losses_N = training_losses(logits_NC, torch.tensor([0, 0, 2]), Recipe(model="svm_probe", encoder="patch_pca"))
    assert losses_N.tolist() == [0.0, 0.5, 3.0]
    assert training_losses(logits_NC, torch.tensor([0, 0, 2]), Recipe()).tolist() != losses_N.tolist()


def test_the_support_vector_machine_beside_scikit_learns() -> None:
    """The same loss; accuracies agree, and so do most predictions."""
    from sklearn.svm import LinearSVC

    task = build_task("digits[dropout=0.0,encoder=patch_pca,epochs=60,lr=0.005,model=svm_probe]")
    model, inputs_NE = task.fit(np.arange(300), 0), task._inputs.numpy()
    labels_N = task.labels(None, np.arange(task.num_pool)).numpy()
    twin = LinearSVC(multi_class="crammer_singer", C=0.1, random_state=0).fit(inputs_NE[:300], labels_N[:300])
    predicted_N = task.predict(model, np.arange(300, 1297)).scores_PC.argmax(1).numpy()
    theirs_N = twin.predict(inputs_NE[300:])
    mine, theirs = (predicted_N == labels_N[300:]).mean(), (theirs_N == labels_N[300:]).mean()
    assert mine > 0.85
    assert mine == pytest.approx(theirs, abs=0.03)
    assert (predicted_N == theirs_N).mean() > 0.9


def test_its_probabilities_are_the_softmax_of_its_scores() -> None:
    task = build_task(probe("svm_probe", 2))
    model = task.fit(np.arange(50), 0)
    logits_NC = F.linear(task._inputs[:20], model.head.weight, model.head.bias)
    torch.testing.assert_close(task.predict(model, np.arange(20)).scores_PC, logits_NC.softmax(1))


def test_neighbours_vote_as_scikit_learns() -> None:
    """Weights exp((similarity - 1) / 0.07) of the 20 nearest labelled images by cosine."""
    from sklearn.neighbors import KNeighborsClassifier

    task = build_task(probe("knn_probe"))
    labelled = np.random.default_rng(0).permutation(task.num_pool)[:200]
    model, rest = task.fit(labelled, 0), np.setdiff1d(np.arange(task.num_pool), labelled)[:300]
    inputs_NE, labels_N = task._inputs.double().numpy(), task.labels(None, labelled).numpy()
    twin = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distance: np.exp(-distance / 0.07)
    )
    expected_NC = twin.fit(inputs_NE[labelled], labels_N).predict_proba(inputs_NE[rest])
    np.testing.assert_allclose(task.predict(model, rest).scores_PC, expected_NC, atol=1e-4)
    assert task.score(model)["accuracy"] > 80
    few = task.fit(labelled[:3], 0)
    assert np.isfinite(task.score(few)["nll"])  # fewer images than neighbours, and classes without any
    assert list(model.state_dict()) == ["labels_P"]


def test_a_hidden_layer_is_the_features_of_a_perceptron() -> None:
    task = build_task("digits[dropout=0.0,encoder=patch_pca,epochs=30,hidden=32,model=mlp_probe]")
    model = task.fit(np.arange(300), 0)
    hidden_NH = (task._inputs[:9] @ model.hidden.weight.T + model.hidden.bias).relu()
    torch.testing.assert_close(task.embed(model, np.arange(9)), hidden_NH)
    assert task.score(model)["accuracy"] > 85


@pytest.mark.parametrize("model", ["svm_probe", "knn_probe"])
def test_influence_functions_are_refused_where_there_are_no_derivatives(model: str) -> None:
    assert {"losses", "directional"} <= missing_capabilities(**Spec.read("task", probe(model)).values)
    with pytest.raises(ValueError, match="isal needs"):
        Cell(Spec.read("task", probe(model)), Spec.read("strategy", "isal"), Schedule(10, 5, 2, 10), 0).check_needs()


def test_influence_is_that_of_the_last_layer_alone() -> None:
    task = build_task()
    model = task.fit(np.arange(40), 0)
    assert list(task.weights(model)) == ["head.weight"]
    view = View(
        task, model, np.arange(40), np.arange(60, 200), num_initial=20, held_out=np.arange(40, 60),
        needs={"losses", "directional", "pseudo_labels", "weights", "held_out"},
    )  # fmt: skip
    assert len(isal(view, 7, np.random.default_rng(0), depth=5)) == 7


def test_pictures_are_the_images_not_the_features() -> None:
    pictures, _ = build_task().pictures(np.arange(3), 8)
    assert pictures.shape == (3, 8, 8, 3)
    plain, _ = build_task("digits").pictures(np.arange(3), 8)
    np.testing.assert_array_equal(pictures, plain)


def test_the_test_images_are_seen_through_the_encoder_of_the_pool() -> None:
    task = build_task()
    features_NE = torch.cat(
        [encoding.global_NE for encoding in task.encode(None, np.arange(task.num_pool), "patch_pca")]
    )
    assert torch.equal(task._inputs, standardise(features_NE, features_NE))
    images = build_task("digits")._test_inputs.expand(-1, 3, -1, -1)
    tests_NE = patch_pca(CPU, InMemoryPool(task._encoder_pool.images_NKHW))(images).global_NE
    assert torch.equal(task._test_inputs, standardise(tests_NE, features_NE))


def test_features_are_standardised_over_the_pool_and_constant_ones_centred() -> None:
    pool_NE = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    assert standardise(pool_NE, pool_NE).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert standardise(torch.tensor([[5.0, 9.0]]), pool_NE).tolist() == [[3.0, 2.0]]


def test_it_is_a_kind_of_task_of_its_own_on_vectors() -> None:
    """A linear layer on (N, E) vectors; the same arrays with another model make a task on images."""
    task, plain = build_task(), build_task("digits")
    assert (type(task), type(plain)) == (Probe, Classifier)
    model = task.model()
    assert isinstance(model, LinearNetwork)
    assert list(model.state_dict()) == ["head.weight", "head.bias"]
    assert task.embed(model, np.arange(5)).shape == (5, model.head.in_features) == task._inputs[:5].shape
    assert task.batch_sizes(50) is None


def test_a_step_takes_the_features_of_the_images_that_an_epoch_draws() -> None:
    """Images would be mirrored and cropped; features stay unchanged."""
    features_NE, labels_N = torch.rand(10, 3), torch.arange(10)
    recipe = Recipe(batch_size=4, flip=True, pad=2)
    batches = list(draw_epoch(10, recipe, torch.Generator().manual_seed(0), torch.device("cpu")))
    parts = [LabelledFeatures(features_NE, labels_N).prepare_batch(batch, recipe) for batch in batches]
    order_N = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([labels for _, labels in parts]), order_N)
    assert torch.equal(torch.cat([inputs for inputs, _ in parts]), features_NE[order_N])


def test_settings_of_augmentation_change_nothing() -> None:
    states = [
        build_task(PROBE.replace("epochs=60", f"epochs=2{more}")).fit(np.arange(40), 0).state_dict()
        for more in ("", ",flip=true,pad=2", ",normalise=imagenet")
    ]
    for state in states[1:]:
        assert all(torch.equal(state[name], states[0][name]) for name in states[0])


def test_a_classifier_is_not_built_from_the_recipe_of_a_linear_probe() -> None:
    images = Split(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match="model=linear_probe: is not a network on images: call build_task"):
        Classifier(CPU, Recipe(model="linear_probe", encoder="patch_pca"), images, images, num_classes=2)


def test_a_companion_is_refused() -> None:
    with pytest.raises(ValueError, match="no stage maps for a companion"):
        build_task().fit(np.arange(40), 0, object())


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("digits[model=linear_probe]", "needs the features of a frozen encoder: set encoder="),
        ("digits[encoder=patch_pca]", "encoder=patch_pca has no effect with model=small_cnn"),
        ("digits[encoder=patch_pca,model=linear_probe,compile=true]", "compile=True has no effect"),
        ("digits[encoder=patch_pca,label_smoothing=0.1,model=svm_probe]", "label_smoothing=0.1 has no effect"),
        ("digits[encoder=patch_pca,hidden=9,model=linear_probe]", "hidden=9 has no effect with model=linear_probe"),
        ("digits[encoder=patch_pca,model=knn_probe,neighbours=0]", "neighbours=0: must be at least 1"),
        ("digits[encoder=dnio,model=linear_probe]", "did you mean 'dino'"),
    ],
)
def test_what_does_not_fit_is_said_with_the_grid(label: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Cell(Spec.read("task", label), Spec.read("strategy", "random"), Schedule(10, 5, 2), 0).check_needs()


def test_learning_loss_has_nothing_to_read_there() -> None:
    with pytest.raises(ValueError, match="learning_loss needs a module that is trained beside the model"):
        Cell(Spec.read("task", PROBE), Spec.read("strategy", "learning_loss"), Schedule(10, 5, 2), 0).check_needs()
