"""Suite files: axes, filters, changed settings, and messages for what cannot be."""

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gppdfd.errors import UsageError
from suites.grid import GridRun, Point, _left_out, expand, split_list
from suites.plan import make_plan
from suites.suite import Request, Suite, load_suite, suite_names
from tests.suites.conftest import SUITE

AXES = {"task": ["mrpc", "stsb"], "method": ["ok+dfd", "ok+none", "dense"], "sparsity": [0.8, 0.95]}
WHERE = st.fixed_dictionaries(
    {}, optional={axis: st.lists(st.sampled_from(some), min_size=1, unique=True) for axis, some in AXES.items()}
).filter(bool)


def grid(path: Path, *only: str, **more: object) -> list[GridRun]:
    request = Request(only=only, **more)  # type: ignore[arg-type]
    return expand(load_suite(str(path), request), request)


def change(path: Path, *places: object, value: object) -> Path:
    """Set one value of the suite file."""
    content = yaml.safe_load(path.read_text())
    inner = content
    for place in places[:-1]:
        inner = inner[place]
    inner[places[-1]] = value
    path.write_text(yaml.safe_dump(content))
    return path


def points(runs: list[GridRun]) -> list[tuple[str, str, float, int]]:
    return [(run.config.task, run.config.method, run.config.sparsity, run.config.seed) for run in runs]


def test_the_grid_is_the_product_of_the_axes(suite_file: Path) -> None:
    runs = grid(suite_file)
    assert len(runs) == 2 * (3 * 2 + 1)
    assert points(runs)[:3] == [
        ("mrpc", "ok+dfd", 0.8, 1),
        ("mrpc", "ok+dfd", 0.95, 1),
        ("mrpc", "ok(a=1,b=2)+dfd", 0.8, 1),
    ]


def test_a_dense_row_has_no_sparsities(suite_file: Path) -> None:
    assert points(grid(suite_file, "method=dense")) == [("mrpc", "dense", 0.0, 1), ("stsb", "dense", 0.0, 1)]


def test_the_dense_row_is_the_teacher_of_the_students(suite_file: Path) -> None:
    runs = grid(suite_file, "task=mrpc", settings=["training.lr=3e-4"])
    dense = next(run.config for run in runs if run.row.label == "Dense")
    teacher = runs[0].config.teacher_config()
    assert teacher is not None
    assert teacher.run_id == dense.run_id


@pytest.mark.parametrize(
    ("only", "count"),
    [
        (["task=mrpc"], 7),
        (["task=mrpc,stsb"], 14),
        (["method=ok+dfd,dense"], 6),
        (["method=OK, other"], 4),
        (["method=ok, other", "method=dense"], 6),
        (["method=ok(a=1,b=2)+dfd"], 4),
        (["method=ok( a=1, b=2 ) + dfd"], 4),
        (["method=alone"], 4),
        (["sparsity=0.80"], 8),
        (["sparsity=.8", "task=stsb", "method=ok+none"], 1),
        (["seed=1"], 14),
        (["task=mrpc", "task=stsb"], 14),
    ],
)
def test_only_narrows_any_axis(suite_file: Path, only: list[str], count: int) -> None:
    assert len(grid(suite_file, *only)) == count


def test_long_numbers_are_told_apart(suite_file: Path) -> None:
    change(suite_file, "seeds", value=[20240101, 20240102])
    assert {run.config.seed for run in grid(suite_file, "seed=20240101")} == {20240101}
    change(suite_file, "exclude", value=[{"seed": 20240101}])
    assert {run.config.seed for run in grid(suite_file)} == {20240102}
    change(suite_file, "sparsities", value=[0.9999991, 0.9999992])
    assert {run.config.sparsity for run in grid(suite_file, "sparsity=0.99999910", "method=ok+dfd")} == {0.9999991}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("task=mrcp", r"unknown task 'mrcp'. Did you mean 'mrpc'\? Choose from: mrpc, stsb"),
        ("method=ok+dfb", r"unknown method 'ok\+dfb'. Did you mean 'ok\+dfd'"),
        ("sparsity=0.9", r"unknown sparsity '0.9'.*Choose from: 0.8, 0.95"),
        ("seed=7", r"unknown seed '7'.*Choose from: 1"),
        ("tasks=mrpc", r"unknown axis in --only 'tasks'. Did you mean 'task'"),
        ("mrpc", r"--only mrpc: write AXIS=VALUE"),
        ("task=", r"unknown task ''"),
    ],
)
def test_only_refuses_what_is_not_there(suite_file: Path, only: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid(suite_file, only)


def test_lists_are_split_outside_parentheses() -> None:
    assert split_list("gpp(a=1, b=2)+dfd(c=3), dense") == ["gpp(a=1, b=2)+dfd(c=3)", "dense"]


def test_set_changes_the_preset(suite_file: Path) -> None:
    run = grid(suite_file, settings=["training.lr=1e-4", "teacher.epochs=5", "threads=2", "data.rows=7"])[0]
    settings = run.config.model_dump(mode="json")
    assert settings["training"] == {"lr": 1e-4, "epochs": 2}
    assert settings["teacher"] == {"lr": 1e-3, "epochs": 5}
    assert settings["threads"] == 2
    assert settings["data"] == {"source": "micro", "rows": 7}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=3", r"tiny.*unknown key in training 'epoch'. Did you mean 'epochs'"),
        ("trainig.epochs=3", r"unknown key in --set 'trainig'. Did you mean 'training'"),
        ("training.epochs=many", r"training.epochs: .*integer"),
        ("training.epochs", r"write KEY=VALUE"),
        ("precision.bits=3", r"precision is a single value"),
        ("threads=0", r"threads: .*greater than or equal to 1"),
        ("threads=[", r"no valid YAML"),
    ],
)
def test_set_refuses_what_cannot_be(suite_file: Path, setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid(suite_file, settings=[setting])


def test_a_local_model_has_its_whole_path(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "micro").mkdir()
    monkeypatch.chdir(tmp_path)
    for model, expected in (("./encoder", str(tmp_path / "encoder")), ("micro", "micro"), ("my/model", "my/model")):
        (run,) = grid(suite_file, "task=mrpc", "method=ok+none", "sparsity=0.8", model=model)
        assert run.config.model_dump(mode="json")["model"] == expected


def test_seeds_and_model_replace_those_of_the_preset(suite_file: Path) -> None:
    runs = grid(suite_file, "task=mrpc", "method=ok+none", "sparsity=0.8", seeds=3, model="my/model")
    assert [run.config.seed for run in runs] == [1, 2, 3]
    assert runs[0].config.model_dump(mode="json")["model"] == "my/model"


def test_a_preset_narrows_the_axes(suite_file: Path) -> None:
    runs = grid(suite_file, preset="mini")
    assert points(runs) == [("stsb", "ok+none", sparsity, seed) for seed in (1, 2, 3) for sparsity in (0.8, 0.95)]


@pytest.mark.parametrize(
    ("places", "value", "message"),
    [
        (("titel",), "x", r"tiny.yaml: unknown key 'titel'. Did you mean 'title'"),
        (("presets", "micro", "modle"), "x", r"unknown key in presets.micro 'modle'. Did you mean 'model'"),
        (("methods", 0, "lable"), "x", r"unknown key in methods.0 'lable'. Did you mean 'label'"),
        (("sparsities",), [0.8, 1.0], r"sparsities.1: .*less than 1"),
        (("sparsities",), [-0.1], r"sparsities.0: .*greater than or equal to 0"),
        (("sparsities",), [], r"sparsities: .*at least 1 item"),
        (("reference",), "ok+dfb", r"unknown method 'ok\+dfb'. Did you mean 'ok\+dfd'"),
        (("methods", 1, "method"), "ok+dfd", r"'ok\+dfd' and 'ok\+dfd' make the same run twice"),
        (("methods", 1, "label"), "OK", r"methods: 'OK' is there twice"),
        (("methods", 1, "label"), " ", r"methods.1.label: .*at least 1 character"),
        (("tasks",), ["mrpc", "mrpc"], r"make the same run twice"),
        (("sparsities",), [0.8, 0.8], r"make the same run twice"),
        (("presets", "micro", "tasks"), ["cola"], r"unknown task 'cola'"),
        (("presets",), {}, r"unknown preset of .*'micro'"),
        (("presets",), [], r"presets: "),
        (("name",), "a/b", r"name: "),
    ],
)
def test_a_wrong_file_is_refused(suite_file: Path, places: tuple[object, ...], value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        grid(change(suite_file, *places, value=value))


def test_a_missing_key_is_named(suite_file: Path) -> None:
    suite_file.write_text("name: tiny\n")
    with pytest.raises(UsageError, match="title is missing"):
        load_suite(str(suite_file))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "no valid YAML"), ("just text", "valid dictionary"), ("", "valid dictionary")],
)
def test_a_file_that_is_no_suite_is_refused(suite_file: Path, text: str, message: str) -> None:
    suite_file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_suite(str(suite_file))


def test_an_unknown_suite_gets_near_names() -> None:
    with pytest.raises(UsageError, match=r"unknown suite 'glue_ablatoin'. Did you mean 'glue_ablation'"):
        load_suite("glue_ablatoin")
    with pytest.raises(UsageError, match=r"suite file no/such.yaml cannot be read"):
        load_suite("no/such.yaml")


def test_an_unknown_preset_gets_near_names(suite_file: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown preset of .* 'micr'. Did you mean 'micro'"):
        grid(suite_file, preset="micr")


@pytest.mark.parametrize("name", suite_names())
def test_shipped_suites_are_valid(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    for preset in suite.presets:
        request = Request(preset=preset, only=["task=mrpc"])
        assert load_suite(name, request).preset(preset) == suite.preset(preset)


def test_glue_ablation_is_the_grid_it_should_be() -> None:
    suite = load_suite("glue_ablation")
    assert suite.presets["micro"].methods == (
        "gpp+dfd",
        "gpp(mask=hard_gradual)+dfd",
        "gpp+none",
        "gpp+dfd(teacher_fusion=off)",
        "gpp+dfd(student_fusion=off)",
        "gpp+one-to-one",
        "magnitude+dfd",
        "random+dfd",
        "dense",
    )
    assert suite.presets["micro"].sparsities == (0.8, 0.95)
    assert len(suite.tasks) == 8
    assert sorted(suite.presets) == ["base", "micro", "micro3", "mini"]


def test_a_preset_begins_with_the_shared_one(suite_file: Path) -> None:
    own = {"from": "micro", "training": {"learning_rate": 0.5}, "seeds": 2}
    shared = yaml.safe_load((resources.files("suites") / "presets.yaml").read_text())["micro"]
    preset = load_suite(str(change(suite_file, "presets", "micro", value=own))).preset("micro")
    assert preset.training == {**shared["training"], "learning_rate": 0.5, "search_epochs": 1}
    assert (preset.seeds, preset.threads) == ((1, 2), shared["threads"])


def write_child(tmp_path: Path, suite_file: Path, text: str) -> Path:
    """A suite in a folder of its own that extends the tiny one by a relative path."""
    path = tmp_path / "children" / "child.yaml"
    path.parent.mkdir()
    path.write_text(f"extends: ../{suite_file.name}\n{text}")
    return path


def test_a_child_changes_presets_and_keeps_the_others(tmp_path: Path, suite_file: Path) -> None:
    child = load_suite(
        str(write_child(tmp_path, suite_file, "name: child\npresets: {micro: {training: {epochs: 7}, seeds: 2}}"))
    )
    parent = load_suite(str(suite_file))
    assert child.presets["mini"] == parent.presets["mini"]
    assert child.presets["micro"].training == {"lr": 5e-4, "epochs": 7}
    assert child.presets["micro"].seeds == (1, 2)
    assert child.presets["micro"].teacher == parent.presets["micro"].teacher


def test_a_childs_preset_with_from_begins_anew(tmp_path: Path, suite_file: Path) -> None:
    child = load_suite(str(write_child(tmp_path, suite_file, "name: child\npresets: {mini: {from: micro}}")))
    assert (child.presets["mini"].tasks, child.presets["mini"].seeds) == (None, None)


def test_a_circle_of_suites_is_refused(tmp_path: Path, suite_file: Path) -> None:
    child = write_child(tmp_path, suite_file, "name: child")
    change(suite_file, "extends", value="children/child.yaml")
    with pytest.raises(UsageError, match=r"extends goes round in a circle: .*child\.yaml -> .*tiny\.yaml -> "):
        load_suite(str(child))


def test_a_parent_that_is_no_suite_is_refused(tmp_path: Path, suite_file: Path) -> None:
    child = write_child(tmp_path, suite_file, "name: child")
    suite_file.write_text("- just\n- a list\n")
    with pytest.raises(UsageError, match=r"child\.yaml: extends \.\./tiny\.yaml: this file is no suite"):
        load_suite(str(child))


def test_tied_axes_are_the_points_named(suite_file: Path) -> None:
    tied = [{"task": "mrpc", "sparsity": 0.8}, {"task": "stsb", "sparsity": 0.95, "method": ["OK", "ok+none"]}]
    change(suite_file, "points", value=tied)
    assert points(grid(suite_file)) == [
        ("mrpc", "ok+dfd", 0.8, 1),
        ("mrpc", "ok(a=1,b=2)+dfd", 0.8, 1),
        ("mrpc", "ok+none", 0.8, 1),
        ("mrpc", "dense", 0.0, 1),  # a dense row has no sparsity to tie
        ("stsb", "ok+dfd", 0.95, 1),
        ("stsb", "ok+none", 0.95, 1),
    ]


def test_excluded_points_are_left_out(suite_file: Path) -> None:
    every = points(grid(suite_file))
    change(suite_file, "exclude", value=[{"task": "stsb", "sparsity": 0.95}, {"method": "OK, other"}])
    assert points(grid(suite_file)) == [
        (task, method, sparsity, seed)
        for task, method, sparsity, seed in every
        if (task, sparsity) != ("stsb", 0.95) and method != "ok(a=1,b=2)+dfd"
    ]


def test_rules_of_suite_and_preset_hold_together(suite_file: Path) -> None:
    change(suite_file, "exclude", value=[{"task": "stsb"}])
    change(suite_file, "presets", "micro", "points", value=[{"sparsity": 0.8, "method": "ok+none"}])
    assert points(grid(suite_file)) == [("mrpc", "ok+none", 0.8, 1)]
    change(suite_file, "presets", "micro", "points", value=[{"task": "stsb"}])
    message = r"the rules leave no run of these: excluded by task=stsb|not among the suite's `points`"
    with pytest.raises(UsageError, match=message):
        grid(suite_file)


def test_asking_for_nothing_but_excluded_points_says_why(suite_file: Path) -> None:
    change(suite_file, "exclude", value=[{"task": "stsb", "sparsity": 0.95}])
    with pytest.raises(UsageError, match=r"leave no run of these: excluded by task=stsb sparsity=0\.95"):
        grid(suite_file, "task=stsb", "sparsity=0.95", "method=ok+none")


def test_overrides_change_the_training_of_some(suite_file: Path) -> None:
    change(suite_file, "overrides", value=[{"method": "OK", "training": {"epochs": 5, "lr": 1e-5}}])
    change(suite_file, "presets", "micro", "overrides", value=[{"task": "stsb", "training": {"lr": 2e-5}}])
    found = {
        (run.config.task, run.row.label): run.config.model_dump(mode="json")["training"] for run in grid(suite_file)
    }
    assert found["mrpc", "OK"] == {"lr": 1e-5, "epochs": 5}
    assert found["stsb", "OK"] == {"lr": 2e-5, "epochs": 5}
    assert found["stsb", "alone"] == {"lr": 2e-5, "epochs": 2}
    assert found["mrpc", "alone"] == {"lr": 5e-4, "epochs": 2}


def test_the_command_line_has_the_last_word(suite_file: Path) -> None:
    change(suite_file, "overrides", value=[{"method": "OK", "training": {"epochs": 5, "lr": 1e-5}}])
    run = grid(suite_file, settings=["training.epochs=9"])[0]
    assert run.config.model_dump(mode="json")["training"] == {"lr": 1e-5, "epochs": 9}


def test_a_named_methods_settings_yield_to_overrides_and_the_command_line(suite_file: Path) -> None:
    change(suite_file, "methods", 2, value={"method": "slow", "label": "Slow"})

    def training(**more: Any) -> dict[str, Any]:
        return grid(suite_file, "task=mrpc", "method=slow", **more)[0].config.model_dump(mode="json")["training"]

    assert training() == {"lr": 1e-6, "epochs": 2}
    assert training(settings=["training.lr=1e-2"]) == {"lr": 1e-2, "epochs": 2}
    change(suite_file, "overrides", value=[{"method": "slow", "training": {"lr": 2e-5}}])
    assert training() == {"lr": 2e-5, "epochs": 2}


def test_rows_of_one_method_differ_in_their_training(suite_file: Path) -> None:
    rows = yaml.safe_load(SUITE)["methods"]
    longer = {"method": "ok+dfd", "label": "longer", "training": {"epochs": 7}}
    change(suite_file, "methods", value=[*rows, longer])
    change(suite_file, "overrides", value=[{"task": "mrpc", "training": {"epochs": 5, "lr": 1e-5}}])

    def found(*only: str, **more: Any) -> dict[str, Any]:
        runs = grid(suite_file, "task=mrpc", "sparsity=0.8", *only, **more)
        return {run.row.label: run.config.model_dump(mode="json")["training"] for run in runs}

    longer_training, own = {"lr": 1e-5, "epochs": 7}, {"lr": 1e-5, "epochs": 5}
    assert found("method=longer") == {"longer": longer_training}
    assert found("method=ok+dfd") == {"OK": own, "longer": longer_training}
    assert found("method=longer", settings=["training.epochs=9"])["longer"]["epochs"] == 9
    plan = make_plan(suite := load_suite(str(suite_file)), Request(only=["method=ok+dfd,dense"]))
    assert {run.label for run in plan if run.reference} == {"OK"}
    assert {run.order for run in plan if run.label == "longer"} == {len(suite.methods) - 1}
    assert len({run.run_id for run in plan}) == len(plan)


def test_a_rows_wrong_training_is_refused(suite_file: Path) -> None:
    change(suite_file, "methods", 2, "training", value={"epoch": 3})
    with pytest.raises(UsageError, match=r"methods\.2\.training: unknown key 'epoch'. Did you mean 'epochs'"):
        grid(suite_file, "method=OK")
    change(suite_file, "methods", 3, "training", value={"epochs": 3})
    with pytest.raises(UsageError, match=r"dense trains with the preset's `teacher` settings"):
        load_suite(str(suite_file))


def test_an_override_leaves_the_teacher_alone(suite_file: Path) -> None:
    teachers = {run.teacher.run_id for run in grid(suite_file) if run.teacher}
    change(suite_file, "overrides", value=[{"training": {"epochs": 5}, "task": "mrpc"}])
    assert {run.teacher.run_id for run in grid(suite_file) if run.teacher} == teachers


@pytest.mark.parametrize(
    ("key", "rule", "message"),
    [
        ("points", {"task": "mrcp"}, r"points\.0: unknown task 'mrcp'. Did you mean 'mrpc'"),
        ("points", {"sparsity": 0.9}, r"points\.0: unknown sparsity '0.9'.* Choose from: 0.8, 0.95"),
        ("exclude", {"method": "alnoe"}, r"exclude\.0: unknown method 'alnoe'.*Choose from: dense"),
        ("exclude", {"seed": 4}, r"exclude\.0: unknown seed '4'"),
        ("exclude", {"taks": "mrpc"}, r"unknown key in exclude\.0 'taks'. Did you mean 'task'"),
        ("exclude", {}, r"exclude\.0: names no values of: task, method, sparsity, seed"),
        ("exclude", {"task": []}, r"exclude\.0\.task: .*at least 1 item"),
        ("overrides", {"method": "OK"}, r"overrides\.0\.training is missing"),
        ("overrides", {"method": "OK", "training": {}}, r"overrides\.0\.training: .*at least 1 item"),
        (
            "overrides",
            {"method": "dense", "training": {"lr": 1}},
            r"overrides\.0: dense trains with the preset's `teac",
        ),
        (
            "overrides",
            {"method": "Teacher", "training": {"lr": 1}},
            r"overrides\.0: dense trains with the preset's `teac",
        ),
        (
            "overrides",
            {"method": "alone", "training": {"epoch": 1}},
            r"overrides\.0\.training: unknown key 'epoch'. Did you mean 'epochs'",
        ),
    ],
)
def test_a_wrong_rule_is_refused(suite_file: Path, key: str, rule: dict[str, object], message: str) -> None:
    suite_file.write_text(suite_file.read_text().replace("label: Dense", "label: Teacher"))
    change(suite_file, key, value=[rule])
    with pytest.raises(UsageError, match=message):
        grid(suite_file, "method=OK")


@given(tied=st.lists(WHERE, max_size=3), excluded=st.lists(WHERE, max_size=3))
def test_rules_select_what_a_plain_filter_selects(tied: list[dict[str, Any]], excluded: list[dict[str, Any]]) -> None:
    """Against a direct reading of the definition, over the whole product."""
    suite = Suite.model_validate({**yaml.safe_load(SUITE), "points": tied or None, "exclude": excluded})
    every = [
        Point(row, 1, task, sparsity)
        for row in suite.methods
        for task in suite.tasks
        for sparsity in ((0.0,) if row.method == "dense" else suite.sparsities)
    ]

    def described(point: Point, rule: dict[str, Any], axes: set[str]) -> bool:
        values = {"task": point.task, "sparsity": point.sparsity, "method": point.row.method}
        return all(values[axis] in rule[axis] for axis in axes & set(rule))

    def wanted(point: Point) -> bool:
        axes = {"task", "method"} if point.row.method == "dense" else {"task", "method", "sparsity"}
        kept = not tied or any(described(point, rule, axes) for rule in tied)
        return kept and not any(described(point, rule, set(rule)) for rule in excluded)

    assert [point for point in every if not _left_out(point, suite)] == list(filter(wanted, every))


def test_settings_that_leave_nothing_to_train_are_refused_before_the_start(suite_file: Path) -> None:
    with pytest.raises(UsageError, match=r"tiny, preset micro: ok\+dfd on mrpc: training has no steps"):
        grid(suite_file, settings=["training.epochs=0"])


def test_an_unknown_shared_preset_is_refused(suite_file: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'micro'"):
        load_suite(str(change(suite_file, "presets", "micro", "from", value="mirco")))


def test_a_suite_may_extend_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: glue_ablation\nname: mine\ntitle: mine\ntasks: [rte]\n")
    mine, parent = load_suite(str(path)), load_suite("glue_ablation")
    assert (mine.name, mine.tasks) == ("mine", ("rte",))
    assert (mine.methods, mine.presets) == (parent.methods, parent.presets)


def test_pairs_are_rows(suite_file: Path) -> None:
    change(suite_file, "pairs", value={"pruners": ["one", "two"], "distillers": ["x", "y"]})
    rows = [row.method for row in load_suite(str(suite_file)).methods]
    assert rows[-4:] == ["one+x", "one+y", "two+x", "two+y"]


def test_shipped_suites_name_known_methods_and_tasks() -> None:
    from gppdfd.interface import parse_method
    from gppdfd.tasks import task_spec

    for name in suite_names():
        suite = load_suite(name)
        for row in suite.methods:
            assert parse_method(row.method).spec == "".join(row.method.split()), name
        for task in suite.tasks:
            assert task_spec(task).name == task
        for preset in suite.presets.values():
            assert set(preset.methods or ()) <= {row.method for row in suite.methods}, name
