"""Codes enter a network one-hot or through a table."""

import pytest
import torch

from kd_ray.inputs import Encode, Inputs, embedding_size


def test_numbers_then_one_hot_columns_then_embeddings() -> None:
    encode = Encode(Inputs.of([0, 3, 4], one_hot=3, embedding=2))
    with torch.no_grad():
        encode.tables[0].weight.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]))
    x_BD = torch.tensor([[0.5, 2.0, 3.0], [-1.0, 0.0, 1.0]])
    assert encode(x_BD).tolist() == [[0.5, 0, 0, 1, 6, 7], [-1.0, 1, 0, 0, 2, 3]]


def test_columns_of_few_levels_are_one_hot_and_others_embedded() -> None:
    inputs = Inputs.of([0, 0, 16, 17, 5000], one_hot=16)
    assert inputs.one_hot == ((2, 16),)
    assert inputs.embedded == ((3, 17, embedding_size(17)), (4, 5000, 64))
    assert inputs.width == 2 + 16 + embedding_size(17) + 64
    assert embedding_size(100) == 21  # 1.6 * 100 ** 0.56 = 21.1


def test_a_table_without_codes_enters_as_it_is() -> None:
    assert Inputs.of([0, 0]).is_plain
    assert not Inputs.of([0, 2]).is_plain


def test_a_number_after_a_code_is_refused() -> None:
    with pytest.raises(ValueError, match="numbers must come before codes"):
        Inputs.of([3, 0])
