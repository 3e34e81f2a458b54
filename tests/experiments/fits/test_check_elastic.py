"""The clock beside times that LoongServe's authors measured."""

import numpy as np

from servegym.experiments.fits.check_elastic import PUBLISHED, main, ours_ms


def test_published_times():
    ours = np.array([ours_ms(each) for each in PUBLISHED])
    theirs = np.array([(each.prefill_ms, each.decode_ms) for each in PUBLISHED])
    errors = np.abs(ours / theirs - 1)
    assert (errors.mean(axis=0) < (0.05, 0.11)).all()
    assert (errors.max(axis=0) < (0.13, 0.28)).all()


def test_more_sequence_and_less_tensor_parallelism_prefills_faster():
    """Figure 3: of 128 prompts of 5,000 tokens, and of all but the longest."""
    by_batch: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for each in PUBLISHED[1:]:
        by_batch.setdefault((each.requests, each.tokens), []).append((each.instances, ours_ms(each)[0]))
    for times in by_batch.values():
        assert [seconds for _, seconds in sorted(times)] == sorted((s for _, s in times), reverse=True)


def test_the_command_ends_with_its_errors(capsys):
    assert main() == 0
    assert "prefill: mean error 4." in capsys.readouterr().out
