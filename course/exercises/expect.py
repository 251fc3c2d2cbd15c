import torch


class NotYet(AssertionError):
    """An answer that is not right yet: the notebook shows this text and no traceback."""

    def _render_traceback_(self):
        return str(self).splitlines()


def expect(what, came, expected, *, hint, tol=1e-5):
    """Compare an answer with the expected value; say what to look at when they differ."""

    def not_yet(wanted, got):
        text = f"✗ {what}\n  expected: {wanted}\n  came:     {got}\n  hint:     {hint}"
        raise NotYet(text) from None

    want = torch.as_tensor(expected, dtype=torch.float64)
    try:
        got = torch.as_tensor(came).detach().to(torch.float64)
    except (TypeError, ValueError, RuntimeError):
        not_yet(
            f"numbers of shape {tuple(want.shape)}",
            f"{type(came).__name__} {came!r:.60}",
        )
    if got.shape != want.shape:
        not_yet(f"shape {tuple(want.shape)}", f"shape {tuple(got.shape)}")
    wrong = ~torch.isclose(got, want, rtol=tol, atol=tol)
    if wrong.any():
        first = wrong.nonzero()[0].tolist()
        place = f" at index {first}" if first else ""
        not_yet(f"{want[tuple(first)]:.6g}{place}", f"{got[tuple(first)]:.6g}{place}")
    print(f"✓ {what}")
