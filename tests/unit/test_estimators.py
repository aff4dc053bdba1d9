"""Members that are no networks: fitted, stored, asked again."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from kd_ray import estimators
from kd_ray.errors import ConfigError, ManifestError
from kd_ray.estimators import Problem, to_logits
from kd_ray.knobs import Group
from kd_ray.tables import Rows

RNG = np.random.default_rng(11)
FEATURES = np.hstack([RNG.normal(size=(120, 3)), RNG.integers(0, 4, (120, 1))]).astype(np.float32)
KINDS = [
    ("sklearn", "sklearn.ensemble.RandomForestClassifier", {"n_estimators": 7}),
    ("sklearn", "sklearn.ensemble.HistGradientBoostingClassifier", {"max_iter": 5}),
    ("xgboost", None, {"n_estimators": 5}),
    ("lightgbm", None, {"n_estimators": 5, "min_child_samples": 3}),
]
REGRESSORS = [
    ("sklearn", "sklearn.ensemble.ExtraTreesRegressor", {"n_estimators": 7}),
    ("xgboost", None, {"n_estimators": 5}),
    ("lightgbm", None, {"n_estimators": 5, "min_child_samples": 3}),
]


def problem(n_outputs: int, is_regression: bool = False) -> Problem:
    return Problem(n_outputs=n_outputs, is_regression=is_regression, levels_D=[0, 0, 0, 4], threads=1, clip=1e-6)


def group(kind: str, estimator: str | None, parameters: dict) -> Group:
    if kind != "sklearn":
        pytest.importorskip(kind, reason=f"the extra {kind}")
    return Group(kind=kind, estimator=estimator, parameters=parameters)


def rows(labels: np.ndarray, weights: np.ndarray | None = None) -> Rows:
    count = len(labels)
    weight_N = np.ones(count, np.float32) if weights is None else weights
    return Rows(row_id_N=np.arange(count), features_ND=FEATURES[:count], label_N=labels, weight_N=weight_N)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("kind", "estimator", "parameters"), KINDS)
def test_a_stored_classifier_says_what_the_fitted_one_did(
    kind: str, estimator: str | None, parameters: dict, classes: int
) -> None:
    labels = (FEATURES[:, 0] * classes).astype(int).clip(0, classes - 1)
    of, how = problem(classes), group(kind, estimator, parameters)
    model = estimators.fit(how, 5, rows(labels), of)
    said = of.logits(estimators.says(model, of), FEATURES)
    np.testing.assert_allclose(said, to_logits(model.predict_proba(FEATURES), 1e-6), rtol=1e-6)
    again = estimators.load(kind, estimators.save(kind, model), of, "teacher 5")
    np.testing.assert_allclose(of.logits(again, FEATURES), said, rtol=1e-5, atol=1e-5)
    twin = estimators.fit(how, 5, rows(labels), of)
    np.testing.assert_array_equal(of.logits(estimators.says(twin, of), FEATURES), said)


@pytest.mark.parametrize(("kind", "estimator", "parameters"), REGRESSORS)
def test_a_stored_regressor_says_what_the_fitted_one_did(kind: str, estimator: str | None, parameters: dict) -> None:
    of = problem(1, is_regression=True)
    model = estimators.fit(group(kind, estimator, parameters), 5, rows(FEATURES[:, 0] * 2), of)
    again = estimators.load(kind, estimators.save(kind, model), of, "teacher 5")
    expected = model.predict(FEATURES)
    assert of.logits(again, FEATURES).shape == (120, 1)
    np.testing.assert_allclose(of.logits(again, FEATURES)[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_row_weights_reach_the_fit() -> None:
    labels, weights = RNG.integers(0, 2, 120), RNG.uniform(0.1, 3, 120).astype(np.float32)
    how = group("sklearn", "sklearn.linear_model.LogisticRegression", {"C": 0.5})
    model = estimators.fit(how, 0, rows(labels, weights), problem(2))
    plain = LogisticRegression(C=0.5).fit(FEATURES, labels, sample_weight=weights)
    np.testing.assert_allclose(model.coef_, plain.coef_, atol=1e-6)


def test_probabilities_become_logits_with_the_clip() -> None:
    said = to_logits(np.array([[1.0, 0.0], [0.25, 0.75]]), clip=0.1)
    np.testing.assert_allclose(said, np.log([[1 / 1.1, 0.1 / 1.1], [0.25, 0.75]]), rtol=1e-6)


def test_a_class_that_a_member_never_saw_has_the_clip() -> None:
    of = problem(3)
    how = group("sklearn", "sklearn.ensemble.RandomForestClassifier", {"n_estimators": 3})
    model = estimators.fit(how, 0, rows(np.where(FEATURES[:, 0] > 0, 2, 0)), of)
    said = of.logits(estimators.says(model, of), FEATURES)
    np.testing.assert_allclose(said[:, 1], np.log(1e-6), rtol=1e-2)


def pipeline(depth: int) -> Pipeline:
    from sklearn.tree import DecisionTreeClassifier

    return make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=depth))


def unsafe() -> Pipeline:
    return make_pipeline(FunctionTransformer(double), LogisticRegression())


def double(features: np.ndarray) -> np.ndarray:
    return 2 * features


def test_a_function_may_make_the_estimator() -> None:
    how = group("sklearn", f"{__name__}.pipeline", {"depth": 2})
    of = problem(2)
    model = estimators.fit(how, 0, rows((FEATURES[:, 1] > 0).astype(int)), of)
    again = estimators.load("sklearn", estimators.save("sklearn", model), of, "teacher 0")
    np.testing.assert_array_equal(again(FEATURES), model.predict_proba(FEATURES))


def test_a_stored_model_that_names_code_of_others_is_refused() -> None:
    model = unsafe().fit(FEATURES, (FEATURES[:, 1] > 0).astype(int))
    with pytest.raises(ManifestError, match=r"teacher 9: names types that are not trusted: .*double"):
        estimators.load("sklearn", estimators.save("sklearn", model), problem(2), "teacher 9")


@pytest.mark.parametrize(
    ("estimator", "parameters", "says"),
    [
        ("sklearn.ensemble.RandomForest", {}, "sklearn.ensemble has no 'RandomForest'"),
        ("sklear.ensemble.RandomForestClassifier", {}, "cannot be imported: No module named 'sklear'"),
        ("RandomForestClassifier", {}, "must be an import path such as package.module.Name"),
        ("sklearn.ensemble.RandomForestClassifier", {"trees": 3}, "parameters: .*unexpected keyword argument 'trees'"),
        ("sklearn.svm.LinearSVC", {}, "sklearn.svm.LinearSVC: must have predict_proba"),
    ],
)
def test_an_estimator_that_cannot_be_a_member_is_named(estimator: str, parameters: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        estimators.check(group("sklearn", estimator, parameters), problem(2))


def test_an_estimator_that_could_not_be_read_back_is_named_before_it_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"unsafe: could not be read back safely, it names .*double"):
        estimators.check(group("sklearn", f"{__name__}.unsafe", {}), problem(2))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_a_missing_package_is_named_with_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, kind, None)
    with pytest.raises(ConfigError, match=rf'{kind} is not installed: pip install "kd-ray\[{kind}\]"'):
        estimators.check(Group(kind=kind), problem(2))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("seen", [(0, 2), (0, 1), (1, 1)])
def test_boosted_trees_of_rows_that_lack_a_class_still_say_all_classes(kind: str, seen: tuple[int, int]) -> None:
    of, how = problem(3), group(kind, None, {"n_estimators": 5})
    labels = np.where(FEATURES[:, 0] > 0, *seen)
    model = estimators.fit(how, 0, rows(labels), of)
    again = estimators.load(kind, estimators.save(kind, model), of, "teacher 0")(FEATURES)
    assert again.shape == (120, 3)
    np.testing.assert_allclose(again, estimators.says(model, of)(FEATURES), rtol=1e-5, atol=1e-6)
    assert (again.argmax(1) == labels).mean() > 0.95
