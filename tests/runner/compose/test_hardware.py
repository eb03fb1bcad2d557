"""The options of hardware=: cores and HBM follow hardware.lnc, unless they are set."""

from __future__ import annotations

import dataclasses

import pytest

from runner.compose.groups import list_groups
from runner.compose.recipe import compose
from runner.compose.schema import Hardware
from runner.errors import RecipeError


def hardware(*overrides: str) -> Hardware:
    return compose("quickstart", overrides).recipe.hardware


@pytest.mark.parametrize(
    ("option", "lnc", "cores", "memory"),
    [
        ("trn2", 1, 128, 12),
        ("trn2", 2, 64, 24),
        ("trn2u", 1, 128, 12),
        ("trn2u", 2, 64, 24),
        ("trn2_3xlarge", 1, 8, 12),
        ("trn2_3xlarge", 2, 4, 24),
        ("trn3", 1, 8, 18),
        ("trn3", 2, 4, 36),
    ],
)
def test_cores_and_their_memory_follow_lnc(option: str, lnc: int, cores: int, memory: int) -> None:
    machine = hardware(f"hardware={option}", f"hardware.lnc={lnc}")
    assert (machine.cores, machine.core_memory_gb) == (cores, memory)
    if lnc == 2:
        assert machine == hardware(f"hardware={option}"), "2 is the default"


def test_a_number_of_cores_that_is_set_stays() -> None:
    assert hardware("hardware=trn2", "hardware.lnc=1", "hardware.cores=32").cores == 32


@pytest.mark.parametrize("lnc", ["0", "3", "many"])
def test_another_lnc_is_an_error(lnc: str) -> None:
    with pytest.raises(RecipeError, match=r"hardware\.lnc: "):
        hardware("hardware=trn2", f"hardware.lnc={lnc}")


@pytest.mark.parametrize("option", list_groups()["hardware"])
def test_a_listed_price_has_a_region(option: str) -> None:
    machine = hardware(f"hardware={option}")
    assert (machine.price_per_hour is None) == (machine.price_region is None)


def test_every_inf2_has_two_cores_a_chip_and_the_release_that_serves_there() -> None:
    options = [option for option in list_groups()["hardware"] if option.startswith("inf2_")]
    assert len(options) == 4
    for option in options:
        recipe = compose("quickstart", [f"hardware={option}"]).recipe
        machine = recipe.hardware
        assert machine.devices is not None
        assert (machine.name.replace(".", "_"), machine.cores) == (option, 2 * machine.devices)
        assert "inf2" in recipe.sdk.serves_on


def test_trn1n_is_a_trn1_with_more_adapters() -> None:
    trn1, trn1n = hardware("hardware=trn1"), hardware("hardware=trn1n")
    prices = {name: getattr(trn1n, name) for name in ("price_per_hour", "price_region", "price_date")}
    assert dataclasses.replace(trn1, name="trn1n.32xlarge", efa=16, **prices) == trn1n
