"""Figures for MLflow show what was measured, and there is none of nothing."""

from flows import plots


def test_figures_show_what_there_is_and_nothing_where_there_is_nothing():
    figure = plots.curves(
        [*({"step": step, "loss": 5.0 - step} for step in range(5)), {"step": 5, "val_bpb": 1.0}], "sft/x"
    )
    loss, bpb = figure.axes
    assert (loss.get_ylabel(), bpb.get_ylabel()) == ("loss", "val_bpb")
    assert list(loss.lines[0].get_xdata()) == [0, 1, 2, 3, 4]
    assert plots.curves([{"step": 1, "other": 2.0}], "sft/x") is None
    assert plots.scores({}, "x") is None
    bars = plots.scores({"arc": {"accuracy": 0.5, "baseline": 0.25}}, "x").axes[0]
    assert [bar.get_width() for bar in bars.patches] == [0.5]
