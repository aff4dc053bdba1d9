"""The tree of errors is as drawn, and each survives the way out of a worker."""

import pickle

import pytest

from kd_ray import errors
from kd_ray.errors import DataError, KdRayError
from kd_ray.mistakes import Mistakes, near


def tree(base: type[KdRayError]) -> list[type[KdRayError]]:
    return [base, *(found for child in base.__subclasses__() for found in tree(child))]


@pytest.mark.parametrize("kind", tree(KdRayError))
def test_every_error_survives_pickling(kind: type[KdRayError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what must hold; what came")))
    assert type(error) is kind
    assert str(error) == "what must hold; what came"


def test_the_drawn_tree_names_every_error_below_its_parent() -> None:
    assert errors.__doc__
    depth: list[str] = []
    for line in errors.__doc__.splitlines():
        words = line.replace("│", " ").replace("├── ", "    ").replace("└── ", "    ")
        name = words.split()[0] if words.split() else ""
        kind = getattr(errors, name, None)
        if kind is None:
            continue
        level = (len(words) - len(words.lstrip()) - 4) // 4
        depth = [*depth[:level], name]
        if level:
            assert kind.__base__.__name__ == depth[level - 1]
    drawn = {word for line in errors.__doc__.splitlines() for word in line.split() if word.endswith("Error")}
    assert drawn == {kind.__name__ for kind in tree(KdRayError)}


def test_the_users_mistakes_exit_with_2_and_ours_with_1() -> None:
    assert {kind.exit_code for kind in tree(errors.UserError)} == {2}
    assert {kind.exit_code for kind in tree(errors.RunError)} == {KdRayError.exit_code} == {1}


def test_every_error_of_the_module_hangs_on_the_tree() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert defined == {*tree(KdRayError)}


def test_mistakes_are_gathered_once_each_cut_to_a_screen_and_raised_together() -> None:
    mistakes = Mistakes()
    mistakes.check()
    mistakes.add("a", "b\nc", "a")
    with mistakes.gathering():
        raise DataError("d" * 5000)
    with pytest.raises(DataError) as caught:
        mistakes.check()
    assert str(caught.value).splitlines() == ["a", "b", "c", "d" * 1000 + "..."]


def test_a_near_name_is_offered_and_a_far_one_is_not() -> None:
    assert near("churn", ["age", "churned"]) == "; did you mean 'churned'?"
    assert near("zzz", ["age", "churned"]) == ""
