import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from tiny import TinyNet

from configs import cifar
from experiments.bench import ahead
from sskd_jax.models import MODELS
from sskd_jax.types import UserError


def test_what_every_device_needs_in_every_stage(monkeypatch):
    """The machine's own devices in a slice's place: no test environment has a slice's compiler."""
    flags.FLAGS.mark_as_parsed()
    monkeypatch.setitem(MODELS, "tiny", TinyNet)
    monkeypatch.setattr(ahead, "devices_of", lambda topology: jax.devices()[:4])
    config = cifar.get_config()
    config.teacher.model = config.student.model = "tiny"
    with flagsaver.flagsaver(steps=1, images=16, size=16, classes=10):
        rows = {row["step of"]: row for row in ahead.measure(config)}
    assert set(rows) == {"teacher", "head", "student"} and config.dtype == "auto"
    assert all(row["devices"] == 4 and row["images"] == 16 for row in rows.values())
    figures = ("memory_mib", "kernels", "gflop", "moved_gb")
    assert all(row[figure] > 0 for row in rows.values() for figure in figures)


def test_a_device_that_cannot_be_compiled_for_is_told():
    with pytest.raises(
        UserError, match="^--topology=nonsense: .* It takes a slice, such as v5e:2x2"
    ):
        ahead.devices_of("nonsense")


PROGRAM = """HloModule x

%small (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %add = f32[2]{0} add(%p, %p)
}

%large (q: (f32[2])) -> (f32[2]) {
  %q = (f32[2]{0}) parameter(0)
  %item = f32[2]{0} get-tuple-element(%q), index=0
  %fusion.1 = f32[2]{0} fusion(%item), kind=kLoop, calls=%other, metadata={op_name="a = b(c)"}
  %conv = (f32[2]{0}, s8[9]{0}) custom-call(%fusion.1), custom_call_target="__cudnn$convForward"
  %copy-done = f32[2]{0} copy-done(%conv)
  ROOT %tuple = (f32[2]{0}) tuple(%copy-done)
}

ENTRY %main (r: f32[2]) -> f32[2] {
  %while.1 = f32[2]{0} while(%r), condition=%c, body=%small
  ROOT %while.2 = (f32[2]{0}) while(%while.1), condition=%d, body=%large
}
"""


def test_kernels_of_the_largest_loop():
    assert ahead.kernels(PROGRAM) == 2
