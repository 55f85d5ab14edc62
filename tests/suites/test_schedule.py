"""Which run comes next."""

from hypothesis import given
from hypothesis import strategies as st

from suites.plan import PlannedRun, Role
from suites.schedule import Schedule, Warm


def run(
    name: str, task: str = "mrpc", teacher: str | None = None, role: Role = "student", threads: int = 1
) -> PlannedRun:
    return PlannedRun(name, task, name, name, 0.8, 1, role, 0, teacher=teacher, threads=threads)


def teacher(name: str, task: str = "mrpc") -> PlannedRun:
    return run(name, task, role="teacher")


def test_teachers_come_first_whatever_the_order() -> None:
    schedule = Schedule([run("alone"), teacher("t")])
    assert [schedule.take(Warm()), schedule.take(Warm()), schedule.take(Warm())] == [
        teacher("t"),
        run("alone"),
        None,
    ]


def test_a_student_waits_for_its_teacher() -> None:
    schedule = Schedule([teacher("t"), student := run("s", teacher="t")])
    assert schedule.take(Warm()) == teacher("t")
    assert schedule.take(Warm()) is None
    schedule.finish(teacher("t"))
    assert schedule.take(Warm()) == student


def test_a_worker_gets_students_of_the_teacher_that_it_has() -> None:
    runs = [run("a1", teacher="a"), run("b1", teacher="b"), run("a2", teacher="a"), run("b2", teacher="b")]
    schedule, warm = Schedule(runs, done=["a", "b"]), Warm(threads=1, teacher="b")
    taken = [schedule.take(warm, elsewhere={"a"}) for _ in runs]
    assert [item.run_id for item in taken if item] == ["b1", "b2", "a1", "a2"]


def test_a_cold_worker_leaves_warm_teachers_to_the_others() -> None:
    schedule = Schedule([run("a1", teacher="a"), run("b1", teacher="b")], done=["a", "b"])
    chosen = schedule.take(Warm(threads=1), elsewhere={"a"})
    assert chosen is not None
    assert chosen.run_id == "b1"


def test_a_worker_is_not_started_anew_while_runs_suit_its_threads() -> None:
    schedule = Schedule([run("two", threads=2), run("one", threads=1)])
    chosen = schedule.take(Warm(threads=1))
    assert chosen is not None
    assert chosen.threads == 1


def test_long_runs_come_first_among_equals() -> None:
    schedule = Schedule([run("short"), run("unknown"), run("long"), run("middle")])
    seconds = {"short": 1.0, "middle": 5.0, "long": 9.0}
    schedule.longest_first(lambda item: seconds.get(item.run_id))
    taken = [schedule.take(Warm(threads=1, tasks={"mrpc"})) for _ in range(4)]
    assert [item.run_id for item in taken if item] == ["long", "middle", "short", "unknown"]


def test_a_teacher_is_as_long_as_its_longest_student_and_itself() -> None:
    seconds = {"a": 10.0, "b": 2.0, "of a": 1.0, "of b": 20.0}
    students = [run("of a", teacher="a"), run("of b", teacher="b")]
    schedule = Schedule([teacher("a", "rte"), teacher("b"), *students])
    schedule.longest_first(lambda item: seconds[item.run_id])
    first, second = schedule.take(Warm()), schedule.take(Warm())
    assert [first, second] == [teacher("b"), teacher("a", "rte")]


def test_students_of_a_failed_teacher_are_taken_out() -> None:
    students = [run("s1", teacher="t"), run("s2", teacher="t")]
    schedule = Schedule([*students, run("s3", teacher="u")])
    assert schedule.block("t") == students
    assert list(schedule.waiting) == ["s3"]


@given(
    teachers=st.integers(1, 4),
    students=st.lists(st.integers(0, 3), max_size=12),
    failing=st.sets(st.integers(0, 3)),
    workers=st.integers(1, 3),
)
def test_every_run_is_taken_once_or_blocked(
    teachers: int, students: list[int], failing: set[int], workers: int
) -> None:
    plan = [teacher(f"t{number}") for number in range(teachers)]
    plan += [run(f"s{index}", teacher=f"t{number % teachers}") for index, number in enumerate(students)]
    schedule, warm, settled, done = Schedule(plan), [Warm() for _ in range(workers)], [], set()
    while schedule.waiting:
        taken = [item for state in warm if (item := schedule.take(state))]
        assert taken, "waiting runs and nothing to do"
        for item in taken:
            assert item.teacher is None or item.teacher in done
            settled.append(item.run_id)
            if item.role == "teacher" and int(item.run_id[1:]) in failing:
                settled += [blocked.run_id for blocked in schedule.block(item.run_id)]
            else:
                schedule.finish(item)
                done.add(item.run_id)
    assert sorted(settled) == sorted(item.run_id for item in plan)
