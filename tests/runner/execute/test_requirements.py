"""Requirements as pip understands them, without pip."""

from __future__ import annotations

import pytest

from runner.execute import requirements


@pytest.mark.parametrize(
    ("requirement", "version", "met"),
    [
        ("torch>=2.8,<3", "2.9.1+cpu", True),
        ("torch>=2.8,<3", "3.0", False),
        ("torch", "0.1", True),
        ("transformers==4.48.*", "4.48.3", True),
        ("transformers==4.48.*", "4.57.6", False),
        ("transformers!=4.48.*", "4.48.3", False),
        ("numpy~=1.26", "1.30", True),
        ("numpy~=1.26", "2.0", False),
        ("numpy==1.26", "1.26.0", True),
        ("torch>=2.10", "2.9", False),
        ("fabric[pytest]>=3; python_version>'3.8'", "3.2", True),
    ],
)
def test_a_version_meets_a_requirement_or_not(requirement: str, version: str, met: bool) -> None:
    name, _ = requirements.parsed(requirement)
    assert (list(requirements.unmet([requirement], {name: version})) == []) is met


def test_problems_name_the_package_and_the_versions() -> None:
    installed = {"Neuronx_CC": "2.21", "torch": "2.7.0"}
    needed = ["neuronx-cc>=2", "torch>=2.8,<3", "peft", "peft"]
    assert list(requirements.unmet(needed, installed)) == [
        ("torch>=2.8,<3", "torch is 2.7.0, not >=2.8,<3"),
        ("peft", "peft is missing"),
    ]


def test_another_text_is_not_a_requirement() -> None:
    with pytest.raises(ValueError, match="not a requirement"):
        requirements.parsed("--index-url x")
