"""Declarations of systems: found by their files and entry points, and true of the classes that they name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import transformers

import clear_hug_hf
from clear_hug_hf import hub, systems
from clear_hug_hf.objectives import find_objective, shared_objectives
from clear_hug_hf.processing import InputError
from clear_hug_hf.systems import DEFAULT_SYSTEM, SYSTEMS, Objective, System, load, system_of


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> System:
    return SYSTEMS[request.param]


def test_when_a_system_is_declared_then_its_classes_are_those_of_the_auto_classes(system: System) -> None:
    assert system.config.model_type == system.name
    models = {name: one.split(":")[1] for name, one in system.auto_classes.items() if name.startswith("AutoModel")}
    assert models.items() >= system.config.auto_classes.items(), "saved folders name the same"
    for auto_class, reference in system.auto_classes.items():
        found = load(reference)
        if auto_class.startswith("AutoModel"):
            assert found is system.model(auto_class)
            assert getattr(transformers, auto_class)._model_mapping[system.config] is found
    for objective in system.objectives:
        assert load(objective.model).config_class is system.config
        assert load(objective.collator)
        assert objective.picture is None or load(objective.picture)


def test_when_a_system_is_declared_then_it_is_found_by_what_belongs_to_it(system: System) -> None:
    assert system_of(system.config()) is system
    sharing = [one for one in SYSTEMS.values() if one.feature_extractor is system.feature_extractor]
    assert system_of(system.feature_extractor()) is sharing[0]
    with pytest.raises(KeyError, match=r"str belongs to no system: choose from .*clear_hug"):
        system_of("another")


def test_when_a_system_has_heads_then_its_config_takes_each_and_the_first_by_itself(system: System) -> None:
    assert system.config().head_type == next(iter(system.heads))
    kind = "Image" if system.reads_pages else "Sequence"
    assert system.heads.keys() == system.model(f"AutoModelFor{kind}Classification").head_classes.keys()
    for head in system.heads:
        assert system.config(head_type=head).head_type == head


def test_when_a_system_has_a_converter_then_its_function_is_there(system: System) -> None:
    if system.converter is not None:
        assert callable(load(system.converter.function))


def test_when_systems_are_listed_then_one_is_the_default() -> None:
    assert [name for name, one in SYSTEMS.items() if one.is_default] == [DEFAULT_SYSTEM]


def test_when_a_plugin_brings_another_system_of_a_name_then_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = EntryPoint(DEFAULT_SYSTEM, "mine.declaration:SYSTEM", systems.GROUP)
    monkeypatch.setattr(systems, "entry_points", lambda group: [mine])
    with pytest.raises(ImportError, match="two packages provide the system"):
        list(type(SYSTEMS)())


def test_when_an_entry_point_is_no_system_then_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "entry_points", lambda group: [EntryPoint("odd", "json:dumps", group)])
    with pytest.raises(ImportError, match=r"'odd' is not a System of that name: fix json:dumps"):
        type(SYSTEMS)()["odd"]


def test_when_a_plugin_cannot_be_imported_then_the_error_names_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "entry_points", lambda group: [EntryPoint("odd", "no_such_module:SYSTEM", group)])
    with pytest.raises(ImportError, match=r"'odd' cannot be imported from no_such_module:SYSTEM .*uninstall"):
        type(SYSTEMS)()["odd"]


def test_when_declarations_are_read_then_torch_is_not_imported() -> None:
    code = (
        "import sys, types\n"
        "sys.modules['clear_hug_hf'] = package = types.ModuleType('clear_hug_hf')\n"
        f"package.__path__ = [{str(Path(systems.__path__[0]).parent)!r}]\n"
        "from clear_hug_hf.systems import SYSTEMS\n"
        "assert [one.title for one in SYSTEMS.values()]\n"
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys(), 'a heavy import'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_when_a_room_is_asked_for_a_class_or_converter_of_a_system_then_it_has_it() -> None:
    for system in SYSTEMS.values():
        for name, module in system.public_names.items():
            room = importlib.import_module(f"clear_hug_hf{module.rpartition('.')[0]}")
            assert getattr(room, name) is getattr(clear_hug_hf, name)
        if system.converter is not None:
            assert getattr(hub, system.converter.function.split(":")[1]) is load(system.converter.function)
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from clear_hug_hf.hub import nothing  # noqa: F401


# Objectives


@pytest.mark.parametrize("objective", shared_objectives().values(), ids=lambda objective: objective.name)
def test_when_an_objective_is_shared_then_its_classes_fit_and_its_backbone_is_a_system(objective: Objective) -> None:
    config = load(objective.config)(backbone_config=SYSTEMS[objective.backbone].config.preset("tiny"))
    assert {**vars(config), **objective.settings}.keys() == vars(config).keys(), "settings are fields"
    assert load(objective.model).config_class is load(objective.config)
    assert load(objective.collator)
    assert objective.picture is None or load(objective.picture)
    assert getattr(load(objective.model), "needs_full_batch", False) == objective.needs_full_batch
    assert objective.title
    assert objective.paper


SHARED = Objective(name="shared", model="a:B", summary="", loss="", config="a:C", backbone="ecg_cpc")


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Objective:
    monkeypatch.setattr("clear_hug_hf.objectives.shared_objectives", lambda: {"shared": SHARED})
    return SHARED


@pytest.mark.parametrize(
    ("name", "system", "expected"),
    [
        (None, None, ("clear_hug", "clear")),
        ("clear", None, ("clear_hug", "clear")),
        ("jepa", None, ("ecg_jepa", "jepa")),
        (None, "ecg_jepa", ("ecg_jepa", "jepa")),
        (None, "ecg_cpc", ("ecg_cpc", "shared")),
        ("shared", None, ("ecg_cpc", "shared")),
        ("shared", "clear_hug", ("clear_hug", "shared")),
        ("shared", "ecg_fm", ("ecg_fm", "shared")),
    ],
)
@pytest.mark.usefixtures("shared")
def test_when_objective_or_system_are_named_then_the_other_one_follows(
    name: str | None, system: str | None, expected: tuple[str, str]
) -> None:
    system, objective = find_objective(name, system)
    assert (system, objective.name) == expected


@pytest.mark.parametrize(
    ("name", "system", "message"),
    [
        (None, "ecg_fm", "ecg_fm has no pre-training objective of its own: choose from shared"),
        ("clear", "ecg_jepa", "ecg_jepa cannot be pre-trained with the objective 'clear': choose from jepa, shared"),
        ("shared", "ecg_scan", "ecg_scan cannot be pre-trained with the objective 'shared': choose from alignment"),
    ],
)
@pytest.mark.usefixtures("shared")
def test_when_a_system_does_not_have_the_objective_then_its_objectives_are_named(
    name: str | None, system: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        find_objective(name, system)
