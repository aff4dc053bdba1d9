"""Knobs of the data: where rows come from, what their columns are, how they are split and encoded."""

from typing import Literal

from kd_ray.knobs.base import Arguments, Number, Section, Share, Whole, knob, section


class GeneratorOptions(Section):
    """Arguments of `sklearn.datasets.make_classification`, under its names."""

    n_samples: Whole = knob(5000, "rows to generate", "a whole number >= 10", ge=10)
    n_features: Whole = knob(20, "columns", "a whole number >= 1", ge=1)
    n_informative: Whole = knob(10, "columns that carry the classes", "a whole number >= 1", ge=1)
    n_redundant: Whole = knob(5, "linear combinations of those", "a whole number >= 0", ge=0)
    n_repeated: Whole = knob(0, "copies of either", "a whole number >= 0", ge=0)
    n_classes: Whole = knob(2, "classes", "a whole number >= 1", ge=1)
    n_clusters_per_class: Whole = knob(2, "clusters a class", "a whole number >= 1", ge=1)
    flip_y: Number = knob(0.01, "fraction of labels drawn at random", "a number in [0, 1]", ge=0, le=1)
    class_sep: Number = knob(1.0, "distance between clusters", "a number above 0", gt=0)
    random_state: Whole = knob(42, "seed of the generator", "a whole number >= 0", ge=0, lt=2**32)


class Split(Section):
    test: Share = knob(0.2, "held-out rows", "a fraction in (0, 1), or a whole number of rows", gt=0)
    valid: Share = knob(
        0.0,
        "rows taken from the training rows to choose replicas by",
        "a fraction in [0, 1), or a whole number of rows",
        ge=0,
    )
    stratify: bool = knob(False, "keep the classes' shares alike in every split", "true or false")
    seed: Whole = knob(42, "seed of both splits", "a whole number in [0, 2^32)", ge=0, lt=2**32)


class Csv(Section):
    encoding: str = knob("utf-8", "of CSV files", "the name of a text encoding", min_length=1)
    delimiter: str = knob(",", "between cells", "one character", min_length=1, max_length=1)
    null_values: list[str] = knob(
        ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"], "cells that mean: missing", "a list of texts"
    )


Kind = Literal["numeric", "categorical", "date"]


class Columns(Section):
    target: str | None = knob(None, "column to predict; needed for files", "a column name")
    include: list[str] = knob([], "columns to learn from; [] for all others", "a list of column names")
    exclude: list[str] = knob([], "columns to leave out", "a list of column names")
    kinds: dict[str, Kind] = knob(
        {}, "what a column is, where that cannot be seen", "a mapping of columns to numeric, categorical or date"
    )
    ids: list[str] = knob([], "columns kept beside the rows but not learned from", "a list of column names")
    weight: str | None = knob(None, "column of row weights", "a column name")
    split: str | None = knob(None, "column that says train, valid or test of each row", "a column name")
    group: str | None = knob(None, "column whose equal values stay in one split", "a column name")


class Preprocess(Section):
    missing: Literal["median", "mean"] = knob("median", "what a missing number becomes", "median or mean")
    scale: Literal["standard", "quantile", "none"] = knob(
        "standard", "of numbers: to mean 0 and deviation 1, or to normal quantiles", "standard, quantile or none"
    )
    max_levels: Whole = knob(
        10_000, "levels kept of a categorical column, the most frequent first", "a whole number >= 1", ge=1
    )
    min_rows: Whole = knob(
        2, "training rows that a level must have to be kept; rarer ones are one level", "a whole number >= 1", ge=1
    )


class Data(Section):
    source: str = knob(
        "make_classification",
        "where the rows come from",
        "make_classification, sklearn:NAME, package.module:function, or a file, folder, glob or URI of CSV or Parquet",
        min_length=1,
    )
    options: GeneratorOptions = section(GeneratorOptions, "make_classification's arguments")
    arguments: Arguments = knob({}, "keyword arguments of package.module:function", "a mapping")
    unlabelled: str | None = knob(
        None, "rows without the target that join the transfer set", "a file, folder, glob or URI of CSV or Parquet"
    )
    task: Literal["auto", "classification", "regression"] = knob(
        "auto", "auto: regression where the target has fractions", "auto, classification or regression"
    )
    columns: Columns = section(Columns, "which columns there are and what they are for")
    csv: Csv = section(Csv, "how CSV files are read")
    preprocess: Preprocess = section(Preprocess, "how columns become numbers; fitted on the training rows")
    split: Split = section(Split, "held-out rows")
