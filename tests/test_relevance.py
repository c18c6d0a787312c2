"""Relevance propagation against the same rule over all tokens together, in float64."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cait_viz.attention.relevance import class_relevance, patch_relevance, weighted


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_both_stages_are_one_rule_over_all_tokens(depth, patches, blocks, seed):
    generator = np.random.default_rng(seed)
    sa, ca = generator.random((depth, patches, patches)), generator.random((blocks, 1 + patches))
    everything = np.eye(1 + patches)
    for weight in sa:
        whole = np.zeros((1 + patches, 1 + patches))
        whole[1:, 1:] = weight
        everything = everything + whole @ everything
    for row in ca:
        whole = np.zeros((1 + patches, 1 + patches))
        whole[0] = row
        everything = everything + whole @ everything
    found = patch_relevance(class_relevance(ca), sa[::-1])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, everything[0, 1:], rtol=1e-6)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
def test_only_what_speaks_for_the_class_counts(heads, tokens, seed):
    generator = np.random.default_rng(seed)
    attention, gradient = generator.random((heads, tokens)), generator.standard_normal((heads, tokens))
    expected = [
        sum(max(0.0, attention[h, t] * gradient[h, t]) for h in range(heads)) / heads for t in range(tokens)
    ]
    np.testing.assert_allclose(weighted(attention, gradient), expected, rtol=1e-5, atol=1e-7)


def test_without_gradient_nothing_is_relevant():
    zeros = weighted(np.full((2, 4), 0.25), np.zeros((2, 4)))
    assert not patch_relevance(class_relevance([zeros]), [np.zeros((3, 3))]).any()
