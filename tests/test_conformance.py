"""Every plug-in passes the conformance checks, and the checks find faulty plug-ins."""

import pytest
import torch
from _cells import FAULTY

from benchmark.api import Machine, View
from benchmark.conformance.checks import failures, run_checks
from benchmark.conformance.sanity_checks import follows_its_paper
from benchmark.conformance.trials import StrategyTrial
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry

discovery.discover()
OWN = sorted(
    name
    for name, plugin in registry.REGISTRY["strategy"].items()
    if registry.source_file(plugin).parent.name == "strategies"
)
CPU = Machine(torch.device("cpu"))
LIGHTER = {
    "box_count": "box_count[min_score=0.125]",
    "isal": "isal[depth=10,repeats=2]",
    "discriminative": "discriminative[epochs=20,num_queries=2]",
    "matched_random": "matched_random[like=isal[depth=10,repeats=2]]",
    "geal": "geal[encoder=patch_pca]",
    "freesel": "freesel[encoder=patch_pca]",
    "typiclust": "typiclust[encoder=patch_pca]",
    "probcover": "probcover[encoder=patch_pca]",
    "vaal": "vaal[epochs=1,latent=4,size=4,width=4]",
    "batch_bald": "batch_bald[num_configurations=200,num_samples=10]",
    "bait": "bait[form=binary]",
    "active_ft": "active_ft[encoder=patch_pca,num_steps=20]",
    "bilaf": "bilaf[encoder=patch_pca,num_steps=20]",
    **{
        name: f"{name}[encoder=patch_pca]"
        for name in ("max_herding", "uncertainty_herding", "tcm", "dcom", "dropquery", "centroids")
    },
}
ON = {
    "localization_stability": "few_scenes", "localization_tightness": "few_scenes[model=faster_rcnn]",
    "cald": "few_scenes", "ppal": "few_scenes", "box_count": "few_scenes",
}  # fmt: skip
DISTANT = "probcover[encoder=patch_pca,delta=1.2]"  # smaller balls hold one image each: all would be equal
BOXES = [
    "entropy", "margin", "coreset", "learning_loss", "isal", "gradient_similarity", "box_count", "matched_random",
    "cdal", "geal", "freesel", "typiclust", DISTANT, "vaal", "bald", "cald", "ppal",
]  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_every_strategy_conforms(name: str) -> None:
    conforms(name, ON.get(name, "digits[epochs=3]"))


def conforms(name: str, on: str) -> None:
    discovery.discover(FAULTY)
    findings = run_checks(Spec.read("strategy", LIGHTER.get(name, name)), Spec.read("task", on), CPU)
    assert {finding.check: finding.message for finding in findings if finding.message} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOXES)
def test_strategies_conform_on_boxes(name: str) -> None:
    conforms(name, "few_scenes[dropout=0.3]" if name == "bald" else "few_scenes")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coreset", "learning_loss", "isal", "bald", "cald", "ppal"])
def test_strategies_that_ask_more_than_predictions_conform_on_two_stages(name: str) -> None:
    conforms(name, "few_scenes[dropout=0.3,model=faster_rcnn]")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coreset", "isal", "learning_loss"])
def test_strategies_conform_on_ssd(name: str) -> None:
    conforms(name, "few_scenes[epochs=2,model=ssd300]")


def test_a_strategy_with_a_dagger_reads_no_pool_label_either() -> None:
    spec = Spec.read("strategy", "isal[depth=10,reference=test,repeats=2]")
    findings = run_checks(spec, Spec.read("task", "digits[epochs=3]"), CPU)
    assert [finding.message for finding in findings if finding.message] == []


def test_digits_conforms() -> None:
    assert failures(registry.get("task", "digits"), Spec.read("task", "digits"), CPU) == []


@pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence", "bald", "learning_loss"])
def test_a_flipped_sign_is_told_from_the_right_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning loss that picks the lowest predicted loss is a published bug."""
    trial = StrategyTrial(Spec.read("strategy", name), Spec.read("task", "digits[epochs=3]"), CPU)
    assert follows_its_paper(trial) is None
    monkeypatch.setattr(View, "highest", View.lowest)
    message = follows_its_paper(trial)
    assert message is not None
    assert "is the sign flipped?" in message


@pytest.mark.parametrize(
    ("name", "check_", "words"),
    [
        ("cheat", "it reads no label that it has not paid for", "reads labels that it did not buy"),
        ("forgetful", "it leaves global randomness alone", "global generator"),
        ("remembers", "equal arguments give equal picks", "memory"),
        ("meddles", "it leaves the model as it was", "changed the model"),
        ("too_few", "it returns `budget` distinct unlabelled images", "returned 0 indices"),
        ("front", "it does not follow the order of the pool", "from the front of the pool, however that is shuffled"),
        ("sorts", "it does not follow the order of the pool", "from the back of the pool"),
        ("scattered", "it does not follow the order of the pool", "from certain places of the pool"),
        ("flat", "it tells images apart", "its scores are all equal, or nearly so, on digits[epochs=3]"),
        ("box_count", "it tells images apart", "its scores are all equal"),  # a classifier's images count one each
        (
            "single_class",
            "it buys labels of several classes",
            "labels that it buys are of class 3, which has 11% of the pool's",
        ),
        ("flipped", "it selects in the direction of its paper", "is the sign flipped?"),
        ("needs_a_model", "it starts without labels where it says so", "did not declare the need 'predict'"),
        ("crash", "it returns `budget` distinct unlabelled images", "KeyError"),
    ],
)
def test_the_kit_says_what_is_wrong(name: str, check_: str, words: str) -> None:
    discovery.discover(FAULTY)
    findings = run_checks(Spec.read("strategy", name), Spec.read("task", "digits[epochs=3]"), CPU)
    [finding] = [result for result in findings if result.check == check_]
    assert words in finding.message
