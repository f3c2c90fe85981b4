"""Seeds depend on the names they are given, and on nothing else."""

import torch

from benchmark.api import seeded
from benchmark.seeds import seed


def test_is_the_same_on_every_machine() -> None:
    assert seed("fit", "digits", 0, 1) == 3067628013061447327


def test_every_name_counts_and_so_does_their_order() -> None:
    names = [("fit", "digits", 0, 1), ("fit", "digits", 1, 0), ("fit", "digits", 0), ("fit", "digits", "0", 1)]
    assert len({seed(*parts) for parts in names}) == len(names)


def test_fits_a_generator() -> None:
    assert all(0 <= seed("select", "digits", n) < 2**63 for n in range(100))


def test_a_seeded_block_draws_what_torch_draws_and_gives_the_state_back() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = torch.rand(3)
    before = torch.get_rng_state()
    with seeded(5):
        assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(torch.get_rng_state(), before)
